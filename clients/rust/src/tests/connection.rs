use crate::connection::Target;
use crate::{Client, ErrorKind, MutualTls};

const NO_TLS: MutualTls<'_> = MutualTls { ca: b"", certificate: b"", private_key: b"a private key" };

fn tcp(host: &str, port: u16) -> Target {
    Target::Tcp { host: host.to_owned(), port }
}

#[test]
fn targets_are_read() {
    let read = |target| Target::parse(target).unwrap();
    assert_eq!(read("unix:/run/broker.sock"), Target::Unix("/run/broker.sock".into()));
    assert_eq!(read("tcp:broker.example:50051"), tcp("broker.example", 50051));
    assert_eq!(read("broker.example:50051"), tcp("broker.example", 50051));
    assert_eq!(read("tcp:[::1]:50051"), tcp("[::1]", 50051));
}

#[test]
fn what_is_no_target_is_refused() {
    for target in [
        "",
        "unix:",
        "tcp:",
        "tcp:host",
        "tcp::1",
        "tcp:host:",
        "tcp:host:x",
        "tcp:host:+1",
        "tcp:host:65536",
        "tcp:::1:50051",
        "tcp:[::1:50051",
        "tcp:[host]:1",
        "tcp:127.0.0.1/@host:1",
        "tcp:127.0.0.1@host:1",
        "tcp:host#:1",
        "tcp:host?:1",
        "http://host:1",
        "tcp:ho st:1",
    ] {
        assert_eq!(Target::parse(target).unwrap_err().kind(), ErrorKind::Argument, "{target:?}");
    }
}

#[tokio::test]
async fn plain_text_goes_to_this_machine_only() {
    for target in ["tcp:localhost:1", "tcp:127.0.0.1:1", "tcp:127.9.9.9:1", "tcp:[::1]:1", "unix:/run/broker.sock"] {
        assert!(Client::connect(target).is_ok(), "{target}");
    }
    for target in
        ["tcp:10.0.0.1:1", "tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:127.0.0.1.example:1", "tcp:localhost.example:1"]
    {
        assert_eq!(Client::connect(target).unwrap_err().kind(), ErrorKind::Argument, "{target}");
    }
}

#[tokio::test]
async fn unfit_credentials_are_refused() {
    for target in ["unix:/run/broker.sock", "tcp:broker.example:1"] {
        let error = Client::connect_tls(target, NO_TLS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
    }
}

#[test]
fn a_private_key_is_not_printed() {
    assert_eq!(format!("{NO_TLS:?}"), "MutualTls { .. }");
}
