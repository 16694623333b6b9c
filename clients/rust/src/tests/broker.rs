//! A broker that answers what a test tells it to, on a real connection.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use h2::RecvStream;
use h2::server::SendResponse;
use http_body_util::{BodyExt, Full};
use prost_types::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::{BoxStream, Bytes, http};
use tonic::{Request, Response, Status};
use tower::Service;

use crate::tests::RSA_2048;
use crate::v1::key_import_service_server::{KeyImportService, KeyImportServiceServer};
use crate::v1::{
    BatchGetParametersForImportRequest, BatchGetParametersForImportResponse, DeleteImportedKeyMaterialRequest,
    DeleteImportedKeyMaterialResponse, DiscardParametersRequest, DiscardParametersResponse, GetKeyImportStatusRequest,
    GetKeyImportStatusResponse, GetParametersForImportRequest, GetParametersForImportResponse,
    ImportKeyMaterialRequest, ImportKeyMaterialResponse,
};
use crate::{Client, ParametersSource, WrappingAlgorithm, WrappingKeySpec};

pub(super) const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/0b9c1c52-3a4f-4c5a-9d6e-0f4a3f1d2c11";
pub(super) const KEY_ID: &str = "0b9c1c52-3a4f-4c5a-9d6e-0f4a3f1d2c11";
pub(super) const TOKEN: &[u8] = b"SECRET token";

type Queue<T> = Mutex<VecDeque<Result<T, Status>>>;

/// What it answers, request by request; then it is silent.
#[derive(Default)]
pub(super) struct Broker {
    pub(super) gets: Queue<GetParametersForImportResponse>,
    pub(super) imports: Queue<ImportKeyMaterialResponse>,
    pub(super) deletes: Queue<DeleteImportedKeyMaterialResponse>,
    pub(super) discards: Queue<DiscardParametersResponse>,
    pub(super) statuses: Queue<GetKeyImportStatusResponse>,
    /// The imports asked for, each with what the client said of its deadline.
    pub(super) asked: Mutex<Vec<(ImportKeyMaterialRequest, String)>>,
}

impl Broker {
    /// Serves until the test ends.
    pub(super) async fn serve(self) -> (Client, Arc<Self>) {
        let broker = Arc::new(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("tcp:{}", listener.local_addr().unwrap());
        let service = KeyImportServiceServer::from_arc(Arc::clone(&broker));
        tokio::spawn(async move {
            loop {
                tokio::spawn(serve_connection(listener.accept().await.unwrap().0, service.clone()));
            }
        });
        (Client::connect(&target).unwrap(), broker)
    }

    pub(super) fn asked(&self) -> Vec<(ImportKeyMaterialRequest, String)> {
        self.asked.lock().unwrap().clone()
    }
}

/// By hand rather than by tonic's own server: with that, tonic, hyper and Tokio would have more features in the tests
/// than they have where the library is used, and be compiled twice.
async fn serve_connection(stream: TcpStream, service: KeyImportServiceServer<Broker>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, service.clone()));
    }
}

async fn answer(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut service: KeyImportServiceServer<Broker>,
) {
    let (parts, mut body) = request.into_parts();
    let mut content = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        content.extend(data);
    }
    let request = http::Request::from_parts(parts, Full::new(Bytes::from(content)));
    let (parts, body) = service.call(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let Ok(mut stream) = respond.send_response(http::Response::from_parts(parts, ()), false) else { return };
    // Whoever has gone by now needs no answer.
    let _ = stream.send_data(body.to_bytes(), false);
    let _ = stream.send_trailers(trailers);
}

pub(super) fn queue<T>(answers: impl IntoIterator<Item = Result<T, Status>>) -> Queue<T> {
    Mutex::new(answers.into_iter().collect())
}

/// What an honest broker answers.
pub(super) fn parameters() -> GetParametersForImportResponse {
    let public_key = RSA_2048.public.clone();
    GetParametersForImportResponse {
        key_arn: ARN.to_owned(),
        public_key_sha256: digest(&SHA256, &public_key).as_ref().to_vec(),
        public_key,
        import_token: TOKEN.to_vec(),
        parameters_valid_to: Some(Timestamp::from(SystemTime::now() + Duration::from_secs(60))),
        wrapping_algorithm: WrappingAlgorithm::RsaesOaepSha256.into(),
        wrapping_key_spec: WrappingKeySpec::Rsa2048.into(),
        source: ParametersSource::Cache.into(),
    }
}

pub(super) fn imported() -> ImportKeyMaterialResponse {
    ImportKeyMaterialResponse { key_arn: ARN.to_owned(), key_material_id: "id".to_owned() }
}

async fn next<T>(queue: &Queue<T>) -> Result<Response<T>, Status> {
    let answer = queue.lock().unwrap().pop_front();
    match answer {
        Some(answer) => answer.map(Response::new),
        None => pending().await,
    }
}

#[tonic::async_trait]
impl KeyImportService for Broker {
    type BatchGetParametersForImportStream = BoxStream<BatchGetParametersForImportResponse>;

    async fn get_parameters_for_import(
        &self,
        _: Request<GetParametersForImportRequest>,
    ) -> Result<Response<GetParametersForImportResponse>, Status> {
        next(&self.gets).await
    }

    async fn import_key_material(
        &self,
        request: Request<ImportKeyMaterialRequest>,
    ) -> Result<Response<ImportKeyMaterialResponse>, Status> {
        let timeout = request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
        self.asked.lock().unwrap().push((request.into_inner(), timeout));
        next(&self.imports).await
    }

    async fn delete_imported_key_material(
        &self,
        _: Request<DeleteImportedKeyMaterialRequest>,
    ) -> Result<Response<DeleteImportedKeyMaterialResponse>, Status> {
        next(&self.deletes).await
    }

    async fn discard_parameters(
        &self,
        _: Request<DiscardParametersRequest>,
    ) -> Result<Response<DiscardParametersResponse>, Status> {
        next(&self.discards).await
    }

    async fn get_key_import_status(
        &self,
        _: Request<GetKeyImportStatusRequest>,
    ) -> Result<Response<GetKeyImportStatusResponse>, Status> {
        next(&self.statuses).await
    }

    async fn batch_get_parameters_for_import(
        &self,
        _: Request<BatchGetParametersForImportRequest>,
    ) -> Result<Response<Self::BatchGetParametersForImportStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}
