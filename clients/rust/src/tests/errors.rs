use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb::bad_request::FieldViolation;
use tonic_types::pb::{BadRequest, ErrorInfo, RetryInfo};

use crate::v1::ErrorReason;
use crate::{Error, ErrorKind};

fn info(reason: &str) -> prost_types::Any {
    foreign_info("keyimport", reason)
}

fn foreign_info(domain: &str, reason: &str) -> prost_types::Any {
    let metadata = HashMap::from([("suitable".to_owned(), "a b".to_owned())]);
    any("ErrorInfo", &ErrorInfo { reason: reason.to_owned(), domain: domain.to_owned(), metadata })
}

fn retry(seconds: i64, nanos: i32) -> prost_types::Any {
    any("RetryInfo", &RetryInfo { retry_delay: Some(prost_types::Duration { seconds, nanos }) })
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

pub(super) fn status(code: Code, reason: &str, delay: Option<Duration>) -> Status {
    let delay = delay.map(|delay| any("RetryInfo", &RetryInfo { retry_delay: Some(delay.try_into().unwrap()) }));
    with_details(code, [info(reason)].into_iter().chain(delay).collect())
}

fn with_details(code: Code, details: Vec<prost_types::Any>) -> Status {
    let blob = tonic_types::Status { code: code as i32, message: String::new(), details }.encode_to_vec();
    Status::with_details(code, "a sentence", blob.into())
}

#[test]
fn every_reason_has_its_kind_of_the_same_name() {
    let reasons: Vec<ErrorReason> = (1..).map_while(|number| ErrorReason::try_from(number).ok()).collect();
    assert_eq!(reasons.len(), 28);
    for reason in reasons {
        let word = reason.as_str_name().strip_prefix("ERROR_REASON_").unwrap();
        let error = Error::from_status(&status(Code::Aborted, word, None), false);
        assert_eq!(format!("{:?}", error.kind()), format!("{reason:?}"));
        assert_eq!((error.reason(), error.code(), error.message()), (word, Some(Code::Aborted), "a sentence"));
        assert_eq!(error.to_string(), format!("{word}: a sentence"));
    }
}

#[test]
fn all_details_are_read() {
    let field = |name: &str| FieldViolation { field: name.to_owned(), ..FieldViolation::default() };
    let bad = BadRequest { field_violations: vec![field("key_id"), field("other")] };
    let details = vec![any("BadRequest", &bad), retry(1, 500_000_000), info("WRAPPING_UNSUITABLE")];
    let error = Error::from_status(&with_details(Code::InvalidArgument, details), false);
    assert_eq!(error.kind(), ErrorKind::WrappingUnsuitable);
    assert_eq!(error.field(), Some("key_id"));
    assert_eq!(error.retry_after(), Some(Duration::from_millis(1500)));
    assert_eq!(error.metadata()["suitable"], "a b");
    assert_eq!(error.correlation_id(), None);
}

#[test]
fn an_unknown_reason_is_kept() {
    let error = Error::from_status(&status(Code::Unavailable, "NEW_REASON", None), true);
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Other, "NEW_REASON"));
}

#[test]
fn another_domain_does_not_count() {
    let details = vec![foreign_info("another", "KEY_NOT_FOUND")];
    let error = Error::from_status(&with_details(Code::NotFound, details), false);
    assert_eq!((error.kind(), error.reason(), error.metadata().len()), (ErrorKind::Other, "", 0));

    let details = vec![info("KEY_NOT_FOUND"), foreign_info("another", "INTERNAL")];
    let error = Error::from_status(&with_details(Code::NotFound, details), false);
    assert_eq!(error.kind(), ErrorKind::KeyNotFound);
}

#[test]
fn damaged_details_are_passed_over() {
    let whole = status(Code::NotFound, "KEY_NOT_FOUND", None);
    let error = |blob: Vec<u8>| Error::from_status(&Status::with_details(Code::NotFound, "gone", blob.into()), false);
    for length in 1..whole.details().len() {
        let error = error(whole.details()[..length].to_vec());
        assert_eq!((error.kind(), error.code()), (ErrorKind::Other, Some(Code::NotFound)), "{length}");
    }
    assert_eq!(error(vec![0xff; 100]).kind(), ErrorKind::Other);
    let mut damaged = info("KEY_NOT_FOUND");
    damaged.value.pop();
    let error = Error::from_status(&with_details(Code::NotFound, vec![damaged, info("KEY_NOT_EXTERNAL")]), false);
    assert_eq!(error.kind(), ErrorKind::KeyNotExternal);
}

#[test]
fn a_delay_that_is_none_is_left_out() {
    for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, i32::MIN)] {
        let details = vec![info("QUOTA_QUEUE_FULL"), retry(seconds, nanos)];
        let error = Error::from_status(&with_details(Code::ResourceExhausted, details), false);
        assert_eq!(error.retry_after(), None);
    }
}

#[test]
fn what_breaks_off_without_a_reason_leaves_a_change_open() {
    for number in 1..=16 {
        let bare = Status::new(Code::from_i32(number), "why");
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE
        let open = [1, 2, 4, 13, 14].contains(&number);
        let change = Error::from_status(&bare, true);
        assert_eq!(change.kind() == ErrorKind::OutcomeUnknown, open, "{number}");
        assert_eq!(change.reason(), "");
        assert_eq!(Error::from_status(&bare, false).kind(), ErrorKind::Other);
    }
    let refused = Error::from_status(&status(Code::Unavailable, "KMS_UNAVAILABLE", None), true);
    assert_eq!(refused.kind(), ErrorKind::KmsUnavailable);
}
