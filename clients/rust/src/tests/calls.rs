use std::time::{Duration, Instant, SystemTime};

use prost_types::Timestamp;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::sleep;
use tonic::codegen::http;
use tonic::{Code, Status};

use crate::tests::RSA_2048;
use crate::tests::broker::{ARN, Broker, KEY_ID, TOKEN, imported, parameters, queue};
use crate::tests::errors::status;
use crate::tests::unwrap::unwrap;
use crate::v1::import_key_material_request::Expiration as WireExpiration;
use crate::v1::{
    DeleteImportedKeyMaterialResponse, DiscardParametersResponse, GetKeyImportStatusResponse,
    GetParametersForImportResponse, ImportKeyMaterialResponse,
};
use crate::{Client, Error, ErrorKind, Expiration, GetOptions, ImportOptions, WrappingAlgorithm, WrappingKeySpec};

const SOON: Duration = Duration::from_millis(100);
type Lie = fn(&mut GetParametersForImportResponse);

const MATERIAL: &[u8] = b"thirty-two bytes of key material";

async fn import(client: &Client) -> Result<crate::ImportedKeyMaterial, Error> {
    client.import_key_material(KEY_ID, MATERIAL, Expiration::Never, ImportOptions::default()).await
}

#[tokio::test]
async fn an_import_sends_the_material_wrapped_into_the_key_that_was_checked() {
    let (client, broker) =
        Broker { gets: queue([Ok(parameters())]), imports: queue([Ok(imported())]), ..Broker::default() }.serve().await;
    let options = ImportOptions { key_material_description: "a note", ..ImportOptions::default() };
    let valid_to = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let import = client.import_key_material(KEY_ID, MATERIAL, Expiration::At(valid_to), options);
    let imported = import.await.unwrap();
    assert_eq!((&*imported.key_arn, &*imported.key_material_id), (ARN, "id"));
    assert_eq!(imported.public_key_sha256.unwrap().to_vec(), parameters().public_key_sha256);

    let [(asked, timeout)] = &broker.asked()[..] else { panic!("not one import") };
    assert_eq!((&*asked.key_id, &*asked.import_token), (ARN, TOKEN));
    let algorithm = WrappingAlgorithm::RsaesOaepSha256;
    assert_eq!(unwrap(&RSA_2048.private, algorithm, &asked.encrypted_key_material).unwrap(), MATERIAL);
    let seconds = 1_800_000_000;
    assert!(asked.expiration == Some(WireExpiration::ValidTo(Timestamp { seconds, nanos: 0 })));
    assert_eq!(asked.key_material_description, "a note");
    // What is left of 30 seconds, in micro- or nanoseconds.
    assert!(timeout.starts_with("29"), "{timeout}");
}

#[tokio::test]
async fn unfit_material_costs_no_request() {
    let client = Client::connect("unix:/nowhere").unwrap();
    let error = client.import_key_material(ARN, b"", Expiration::Never, ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MaterialUnsuitable);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    for (reason, kind) in [
        ("IMPORT_TOKEN_INVALID", ErrorKind::ImportTokenInvalid),
        ("IMPORT_TOKEN_EXPIRED", ErrorKind::ImportTokenExpired),
    ] {
        let refusal = || Err(status(Code::FailedPrecondition, reason, None));
        let renewed = GetParametersForImportResponse { import_token: b"another".to_vec(), ..parameters() };
        let gets = || queue([Ok(parameters()), Ok(renewed.clone()), Ok(parameters())]);

        let imports = queue([refusal(), Ok(imported())]);
        let (client, broker) = Broker { gets: gets(), imports, ..Broker::default() }.serve().await;
        import(&client).await.unwrap();
        let asked = broker.asked();
        assert_eq!(asked[1].0.import_token, b"another");
        assert!(asked[0].0.encrypted_key_material != asked[1].0.encrypted_key_material);

        let imports = queue([refusal(), refusal(), Ok(imported())]);
        let (client, broker) = Broker { gets: gets(), imports, ..Broker::default() }.serve().await;
        assert_eq!(import(&client).await.unwrap_err().kind(), kind);
        assert_eq!(broker.asked().len(), 2);
    }
}

#[tokio::test]
async fn a_refusal_with_a_delay_is_asked_again_imports_included() {
    let refusal = || status(Code::ResourceExhausted, "KMS_THROTTLED", Some(SOON));
    let (client, broker) = Broker {
        gets: queue([Err(refusal()), Ok(parameters())]),
        imports: queue([Err(refusal()), Err(refusal()), Ok(imported())]),
        ..Broker::default()
    }
    .serve()
    .await;
    let start = Instant::now();
    import(&client).await.unwrap();
    assert!(start.elapsed() >= 3 * SOON);
    assert_eq!(broker.asked().len(), 3);
    assert!(broker.asked().iter().all(|(asked, _)| asked.import_token == TOKEN));
}

#[tokio::test]
async fn a_delay_past_the_timeout_is_told_at_once() {
    let refusal = status(Code::ResourceExhausted, "QUOTA_QUEUE_FULL", Some(Duration::from_secs(40)));
    let (client, _broker) = Broker { gets: queue([Err(refusal)]), ..Broker::default() }.serve().await;
    let error = import(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::QuotaQueueFull, Some(Duration::from_secs(40))));
}

#[tokio::test]
async fn a_broker_that_restarts_is_asked_again_only_where_no_key_changes() {
    for bare in [Status::unavailable("restarting"), Status::cancelled("stopped")] {
        let bare = || bare.clone();
        let (client, broker) = Broker {
            gets: queue([Err(bare()), Err(bare()), Ok(parameters())]),
            imports: queue([Err(bare()), Ok(imported())]),
            deletes: queue([Err(bare()), Ok(DeleteImportedKeyMaterialResponse::default())]),
            discards: queue([Err(bare()), Ok(DiscardParametersResponse {})]),
            statuses: queue([
                Err(bare()),
                Ok(GetKeyImportStatusResponse { key_arn: ARN.to_owned(), ..GetKeyImportStatusResponse::default() }),
            ]),
            ..Broker::default()
        }
        .serve()
        .await;
        assert_eq!(import(&client).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        assert_eq!(broker.asked().len(), 1);
        let delete = client.delete_imported_key_material(ARN, "").await;
        assert_eq!(delete.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        client.discard(ARN, TOKEN).await.unwrap();
        assert_eq!(client.status(KEY_ID).await.unwrap().key_arn, ARN);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_is_not_asked_again() {
    let (client, broker) =
        Broker { gets: queue([Err(Status::cancelled("stopped"))]), ..Broker::default() }.serve().await;
    let call = tokio::spawn(async move { client.get_parameters(ARN, GetOptions::default()).await });
    while !broker.gets.lock().unwrap().is_empty() {
        sleep(SOON / 10).await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    broker.gets.lock().unwrap().push_back(Ok(parameters()));
    sleep(5 * SOON).await;
    assert_eq!(broker.gets.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_timeout_covers_everything() {
    let (client, broker) = Broker { gets: queue([Ok(parameters())]), ..Broker::default() }.serve().await;
    let client = client.with_timeout(3 * SOON);
    let error = import(&client).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OutcomeUnknown, Some(Code::DeadlineExceeded)));
    let error = client.get_parameters(ARN, GetOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Other, Some(Code::DeadlineExceeded)));
    assert_eq!(broker.asked().len(), 1);
    let error = client.with_timeout(Duration::ZERO).delete_imported_key_material(ARN, "").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Other, Some(Code::DeadlineExceeded)));
}

#[tokio::test]
async fn nothing_is_wrapped_under_a_lying_answer() {
    let past = Timestamp::from(SystemTime::now() - Duration::from_secs(1));
    let lies: [(&str, Lie); 14] = [
        ("another key", |answer| answer.key_arn = ARN.replace("0b9c", "0b9d")),
        ("a key whose id ends in the asked", |answer| answer.key_arn = ARN.replace("key/", "key/x")),
        ("another algorithm", |answer| answer.set_wrapping_algorithm(WrappingAlgorithm::RsaesOaepSha1)),
        ("no algorithm", |answer| answer.set_wrapping_algorithm(WrappingAlgorithm::Unspecified)),
        ("an algorithm of the future", |answer| answer.wrapping_algorithm = 99),
        ("another spec", |answer| answer.set_wrapping_key_spec(WrappingKeySpec::Rsa4096)),
        ("a spec it does not wrap under", |answer| answer.set_wrapping_key_spec(WrappingKeySpec::Sm2)),
        ("another SHA-256", |answer| answer.public_key_sha256[31] ^= 1),
        ("no token", |answer| answer.import_token.clear()),
        ("no expiry", |answer| answer.parameters_valid_to = None),
        ("no date", |answer| {
            answer.parameters_valid_to = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
        }),
        ("a date before all dates", |answer| {
            answer.parameters_valid_to = Some(Timestamp { seconds: i64::MIN, nanos: i32::MIN });
        }),
        ("a second of many nanoseconds", |answer| answer.parameters_valid_to.as_mut().unwrap().nanos = i32::MAX),
        ("a short SHA-256", |answer| answer.public_key_sha256.truncate(31)),
    ];
    let options = GetOptions {
        wrapping_algorithm: WrappingAlgorithm::RsaesOaepSha256,
        wrapping_key_spec: WrappingKeySpec::Rsa2048,
        ..GetOptions::default()
    };
    let expired = GetParametersForImportResponse { parameters_valid_to: Some(past), ..parameters() };
    let answers = lies.iter().map(|(what, lie)| {
        let mut answer = parameters();
        lie(&mut answer);
        (*what, answer)
    });
    for (what, answer) in answers.chain([("an expired set", expired)]) {
        let gets = queue([Ok(answer), Ok(parameters())]);
        let (client, broker) = Broker { gets, ..Broker::default() }.serve().await;
        let import_options = ImportOptions { get: options, ..ImportOptions::default() };
        let import = client.import_key_material(KEY_ID, MATERIAL, Expiration::Never, import_options);
        assert_eq!(import.await.unwrap_err().kind(), ErrorKind::WrappingKeyRejected, "{what}");
        assert!(broker.asked().is_empty());
        client.get_parameters(KEY_ID, options).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_for_another_key_leaves_the_outcome_open() {
    let other = ARN.replace("0b9c", "0b9d");
    let (client, _broker) = Broker {
        gets: queue([Ok(parameters())]),
        imports: queue([Ok(ImportKeyMaterialResponse { key_arn: other.clone(), key_material_id: String::new() })]),
        deletes: queue([Ok(DeleteImportedKeyMaterialResponse { key_arn: other, key_material_id: String::new() })]),
        ..Broker::default()
    }
    .serve()
    .await;
    assert_eq!(import(&client).await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    let delete = client.delete_imported_key_material(ARN, "").await;
    assert_eq!(delete.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
}

#[tokio::test]
async fn a_status_tells_when_the_material_expires() {
    let told = |expiry: Option<(i64, i32)>| GetKeyImportStatusResponse {
        key_arn: ARN.to_owned(),
        material_valid_to: expiry.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
        ..GetKeyImportStatusResponse::default()
    };
    let sound = [told(None), told(Some((4_000_000_000, 0)))];
    let unsound = [told(Some((i64::MAX, 0))), told(Some((4_000_000_000, -1)))];
    let statuses = queue(sound.into_iter().chain(unsound).map(Ok));
    let (client, _broker) = Broker { statuses, ..Broker::default() }.serve().await;
    assert_eq!(client.status(ARN).await.unwrap().material_valid_to, None);
    let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    assert_eq!(client.status(ARN).await.unwrap().material_valid_to, Some(expiry));
    for _ in 0..2 {
        let error = client.status(ARN).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Other, None));
    }
}

#[tokio::test]
async fn messages_have_their_limit() {
    let long = GetParametersForImportResponse { import_token: vec![7; 65 * 1024], ..parameters() };
    let (client, broker) = Broker { gets: queue([Ok(long)]), ..Broker::default() }.serve().await;
    let error = client.get_parameters(ARN, GetOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Other, Some(Code::ResourceExhausted)));
    let wrapped = vec![7; 65 * 1024];
    let import = client.import_wrapped(ARN, &wrapped, TOKEN, Expiration::Never, ImportOptions::default());
    assert_eq!(import.await.unwrap_err().code(), Some(Code::ResourceExhausted));
    assert!(broker.asked().is_empty());
}

#[tokio::test]
async fn secrets_are_not_printed() {
    let (client, _broker) = Broker { gets: queue([Ok(parameters())]), ..Broker::default() }.serve().await;
    let printed = format!("{:?}", client.get_parameters(ARN, GetOptions::default()).await.unwrap());
    assert!(printed.contains(ARN));
    assert!(!printed.contains("import_token") && !printed.contains("public_key:"));
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_broker_that_restarts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp:{}", listener.local_addr().unwrap());
    let client = Client::connect(&target).unwrap().with_timeout(20 * SOON);
    // Of each connection, one request is read and none answered.
    let server = tokio::spawn(async move {
        for _ in 0..3 {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            let _request = connection.accept().await.unwrap().unwrap();
        }
    });
    let import = client.import_wrapped(ARN, b"wrapped", TOKEN, Expiration::Never, ImportOptions::default());
    let error = import.await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::OutcomeUnknown, Some(Code::Unavailable)));
    // Asked twice on the connections there are left, and then until the time is up.
    let error = client.get_parameters(ARN, GetOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Other, Some(Code::Unavailable)));
    server.await.unwrap();
}

#[tokio::test]
async fn error_details_that_are_not_base64_do_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp:{}", listener.local_addr().unwrap());
    let client = Client::connect(&target).unwrap();
    tokio::spawn(async move { answer_damaged(listener.accept().await.unwrap().0).await });
    for _ in 0..2 {
        let error = client.get_parameters(ARN, GetOptions::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.code(), error.message()), (ErrorKind::Other, Some(Code::NotFound), "gone"));
    }
}

/// Answers with an error in the headers, then with one in the trailers.
async fn answer_damaged(stream: TcpStream) {
    let headers = http::HeaderMap::from_iter(
        [("grpc-status", "5"), ("grpc-message", "gone"), ("grpc-status-details-bin", "*?")]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())),
    );
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut in_headers = true;
    while let Some(request) = connection.accept().await {
        let (_request, mut respond) = request.unwrap();
        let mut response = http::Response::new(());
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        if in_headers {
            response.headers_mut().extend(headers.clone());
            respond.send_response(response, true).unwrap();
        } else {
            respond.send_response(response, false).unwrap().send_trailers(headers.clone()).unwrap();
        }
        in_headers = false;
    }
}

#[tokio::test]
async fn a_unix_socket_is_asked_with_an_authority() {
    let path = std::env::temp_dir().join(format!("keyimport-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&format!("unix:{}", path.display())).unwrap().with_timeout(20 * SOON);
    let server = tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        assert_eq!(request.uri().authority().unwrap(), "localhost");
    });
    let _ = client.get_parameters(ARN, GetOptions::default()).await;
    std::fs::remove_file(path).unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn calls_can_be_spawned() {
    fn spawnable<T: Send>(_: &T) {}
    let client = Client::connect("unix:/nowhere").unwrap();
    spawnable(&import(&client));
    spawnable(&client.discard(ARN, TOKEN));
}
