use std::time::Duration;

use tonic::{Code, Status};

use crate::Error;
use crate::retry::delay;
use crate::tests::errors::status;

const LONG: Duration = Duration::from_secs(30);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn refusal(delay: Option<f64>) -> Error {
    Error::from_status(&status(Code::ResourceExhausted, "KMS_THROTTLED", delay.map(seconds)), true)
}

#[test]
fn a_refusal_with_a_delay_is_asked_again_after_it() {
    for changes_key in [false, true] {
        assert_eq!(delay(&refusal(Some(3.0)), changes_key, 7, LONG, 0.0), Some(seconds(3.0)));
        assert_eq!(delay(&refusal(Some(0.0)), changes_key, 0, LONG, 0.0), Some(seconds(0.1)));
        assert_eq!(delay(&refusal(None), changes_key, 0, LONG, 0.0), None);
    }
}

#[test]
fn a_delay_longer_than_the_time_left_is_not_waited_for() {
    assert_eq!(delay(&refusal(Some(3.0)), false, 0, seconds(3.0), 0.0), Some(seconds(3.0)));
    assert_eq!(delay(&refusal(Some(3.0)), false, 0, seconds(2.9), 0.0), None);
    assert_eq!(delay(&refusal(Some(3e11)), false, 0, LONG, 1.0), None);
}

#[test]
fn a_broker_that_is_restarting_is_asked_again_and_again_where_no_key_changes() {
    for status in [Status::unavailable("restarting"), Status::cancelled("stopped")] {
        let error = Error::from_status(&status, false);
        let delays = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|failures| delay(&error, false, failures, LONG, 0.0).unwrap());
        assert_eq!(delays, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0].map(seconds));
        assert_eq!(delay(&error, false, 5, seconds(1.9), 0.0), None);
        assert_eq!(delay(&error, true, 0, LONG, 0.0), None);
    }
}

#[test]
fn a_delay_is_lengthened_by_a_fifth_at_most() {
    assert_eq!(delay(&refusal(Some(2.0)), false, 0, LONG, 0.5), Some(seconds(2.2)));
    assert_eq!(delay(&refusal(Some(2.0)), false, 0, LONG, 1.0), Some(seconds(2.4)));
}

#[test]
fn nothing_else_is_asked_again() {
    let codes = (1..=16).map(Code::from_i32).filter(|code| !matches!(code, Code::Unavailable | Code::Cancelled));
    for code in codes {
        let error = Error::from_status(&Status::new(code, "why"), false);
        assert_eq!(delay(&error, false, 0, LONG, 0.0), None, "{code:?}");
    }
    let told = Error::from_status(&status(Code::Unavailable, "KMS_UNAVAILABLE", None), false);
    assert_eq!(delay(&told, false, 0, LONG, 0.0), None);
    let unknown = Error::from_status(&status(Code::Unknown, "OUTCOME_UNKNOWN", Some(seconds(1.0))), true);
    assert_eq!(delay(&unknown, true, 0, LONG, 0.0), None);
}
