//! The connection to a broker, and what may not come over it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Response, Uri};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tower::ServiceExt;
use tower::util::MapResponse;

use crate::errors::{Error, ErrorKind};
use crate::v1::key_import_service_client::KeyImportServiceClient;

/// A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API.
pub(crate) const MESSAGE_BYTES: usize = 64 * 1024;
/// An attempt that hangs longer is given up, so that the next call begins a new one rather than wait for the old.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Stub = KeyImportServiceClient<MapResponse<Channel, fn(Response<Body>) -> Response<Body>>>;

/// What mutual TLS takes, each as the content of a PEM file.
#[derive(Clone, Copy)]
pub struct MutualTls<'a> {
    /// The CA certificates, one or more, that the broker's certificate is checked by; no others are trusted.
    pub ca: &'a [u8],
    /// The client's certificate, followed by the intermediate ones if there are any.
    pub certificate: &'a [u8],
    /// The private key of the client's certificate, without a password.
    pub private_key: &'a [u8],
}

impl fmt::Debug for MutualTls<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MutualTls").finish_non_exhaustive()
    }
}

/// A stub for the target, connected when it is first used, and again after that as need be.
pub(crate) fn stub(target: &str, tls: Option<MutualTls<'_>>) -> Result<Stub, Error> {
    let channel = match Target::parse(target)? {
        Target::Unix(_) if tls.is_some() => return Err(argument("a unix socket takes no TLS credentials")),
        Target::Unix(path) => {
            // What this address is for is only the authority that HTTP/2 wants to be sent.
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            endpoint("http://localhost".to_owned())?.connect_with_connector_lazy(connector)
        }
        Target::Tcp { host, port } => match tls {
            Some(tls) => {
                let config = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(tls.ca))
                    .identity(Identity::from_pem(tls.certificate, tls.private_key))
                    .domain_name(bare(&host))
                    .timeout(CONNECT_TIMEOUT);
                let endpoint = endpoint(format!("https://{host}:{port}"))?.tls_config(config);
                endpoint.map_err(|_| argument("the TLS credentials are not what PEM files hold"))?.connect_lazy()
            }
            None if is_loopback(&host) => endpoint(format!("http://{host}:{port}"))?.connect_lazy(),
            // Whoever can answer in the broker's place can have the key material wrapped for himself.
            None => {
                let message = format!("{target:?} is not on this machine, so the connection needs TLS credentials");
                return Err(argument(message));
            }
        },
    };
    let channel = channel.map_response(without_damaged_details as fn(Response<Body>) -> Response<Body>);
    Ok(KeyImportServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES))
}

fn endpoint(uri: String) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(uri).map_err(|_| argument("the target's host is no host name"))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT))
}

#[derive(Debug, PartialEq)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Target {
    /// Reads `unix:PATH`, `tcp:HOST:PORT` or `HOST:PORT`.
    pub(crate) fn parse(target: &str) -> Result<Self, Error> {
        let read = if let Some(path) = target.strip_prefix("unix:") {
            (!path.is_empty()).then(|| Self::Unix(path.into()))
        } else {
            let address = target.strip_prefix("tcp:").unwrap_or(target);
            address.rsplit_once(':').filter(|(host, _)| is_host(host)).and_then(|(host, port)| {
                let port = port.parse().ok().filter(|_| port.bytes().all(|digit| digit.is_ascii_digit()))?;
                Some(Self::Tcp { host: host.to_owned(), port })
            })
        };
        read.ok_or_else(|| argument(format!("{target:?} is none of unix:PATH, tcp:HOST:PORT and HOST:PORT")))
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets; nothing that could mean something else in a URI.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn argument(message: impl Into<String>) -> Error {
    Error::local(ErrorKind::Argument, message)
}

/// Takes error details out of an answer that are not base64: tonic panics at them, and a lying broker may not have a
/// program of ours end.
fn without_damaged_details(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    remove_damaged_details(&mut parts.headers);
    let body = body.map_frame(|mut frame| {
        if let Some(trailers) = frame.trailers_mut() {
            remove_damaged_details(trailers);
        }
        frame
    });
    Response::from_parts(parts, Body::new(body))
}

fn remove_damaged_details(headers: &mut HeaderMap) {
    const DETAILS: &str = "grpc-status-details-bin";
    let Some(details) = headers.get(DETAILS) else { return };
    let alone = MetadataMap::from_headers(HeaderMap::from_iter([(
        tonic::codegen::http::HeaderName::from_static(DETAILS),
        details.clone(),
    )]));
    if alone.get_bin(DETAILS).is_none_or(|value| value.to_bytes().is_err()) {
        headers.remove(DETAILS);
    }
}
