//! What the status of a failed call says, and what tonic makes of one that broke off.

use std::error::Error;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb::{BadRequest, ErrorInfo, RetryInfo};

const DOMAIN: &str = "keyimport";

/// What of `grpc-status-details-bin` can be read; what is damaged or of a foreign type is passed over.
#[derive(Default)]
pub(crate) struct Details {
    pub(crate) info: ErrorInfo,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) field: Option<String>,
}

impl Details {
    pub(crate) fn read(blob: &[u8]) -> Self {
        let mut read = Self::default();
        for detail in tonic_types::Status::decode(blob).unwrap_or_default().details {
            let value = detail.value.as_slice();
            match detail.type_url.rsplit('/').next() {
                Some("google.rpc.ErrorInfo") => {
                    // Whoever stands between may explain himself too, and his words mean something else.
                    if let Some(info) = ErrorInfo::decode(value).ok().filter(|info| info.domain == DOMAIN) {
                        read.info = info;
                    }
                }
                Some("google.rpc.RetryInfo") => {
                    let delay = RetryInfo::decode(value).ok().and_then(|info| info.retry_delay);
                    read.retry_after = delay.and_then(duration);
                }
                Some("google.rpc.BadRequest") => {
                    let violations = BadRequest::decode(value).unwrap_or_default().field_violations;
                    read.field = violations.into_iter().next().map(|violation| violation.field);
                }
                _ => {}
            }
        }
        read
    }
}

/// The length of a duration that is not negative; prost's own conversion panics at some that a lying broker can send.
fn duration(duration: prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(duration.seconds).ok()?, nanos))
}

/// Whether gRPC makes the status up by itself when a call breaks off, so that nobody knows what became of the request.
pub(crate) fn breaks_off(code: Code) -> bool {
    matches!(code, Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable)
}

/// The code that gRPC's specification has for what happened. tonic says UNKNOWN or CANCELLED of most connections that
/// break, depending on which of its features another crate enables, and `OUT_OF_RANGE` of messages that are too long.
pub(crate) fn code_of(status: &Status) -> Code {
    let Some(cause) = status.source() else {
        let too_long = status.code() == Code::OutOfRange && status.details().is_empty();
        return if too_long { Code::ResourceExhausted } else { status.code() };
    };
    for cause in causes(cause) {
        if cause.is::<tonic::TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        if let Some(reset) = cause.downcast_ref::<h2::Error>().filter(|error| error.is_reset()) {
            return match reset.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
                Some(h2::Reason::CANCEL) => Code::Cancelled,
                Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
                Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
                _ => Code::Internal,
            };
        }
    }
    Code::Unavailable
}

/// The broker's sentence, or what broke the connection down to its root, as in a TLS handshake.
pub(crate) fn message_of(status: &Status) -> String {
    let causes = status.source().into_iter().flat_map(causes).map(ToString::to_string);
    let mut sentences: Vec<String> = Vec::new();
    for sentence in causes.chain([status.message().to_owned()]) {
        // Many a cause repeats the sentence of its own cause.
        if !sentences.iter().any(|said| said.contains(&sentence)) {
            sentences.push(sentence);
        }
    }
    if sentences == [""] { status.code().description().to_owned() } else { sentences.join(": ") }
}

fn causes<'a>(first: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(first), |cause| (*cause).source())
}
