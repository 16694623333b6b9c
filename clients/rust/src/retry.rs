//! Calls: how long they may take, what is asked again, and when.

use std::time::Duration;

use aws_lc_rs::rand;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Request, Response, Status};

use crate::connection::{MESSAGE_BYTES, Stub};
use crate::errors::{Error, ErrorKind};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// How much longer a delay may become at random, so that many callers do not return at once.
const STRETCH: f64 = 0.2;

/// What a call does to the key.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Effect {
    None,
    ChangesKey,
}

/// Calls, and calls again where `delay` says so, until the deadline.
pub(crate) async fn call<Q: Clone + Message, A, F: Future<Output = Result<Response<A>, Status>>>(
    stub: &Stub,
    request: Q,
    effect: Effect,
    deadline: Instant,
    method: impl Fn(Stub, Request<Q>) -> F,
) -> Result<A, Error> {
    let changes_key = effect == Effect::ChangesKey;
    if request.encoded_len() > MESSAGE_BYTES {
        // tonic would break the call off in the middle, and leave open what became of it.
        return Err(Error::from_status(&Status::resource_exhausted("the request is too long to be sent"), false));
    }
    let mut failures = 0;
    loop {
        let left = deadline.duration_since(Instant::now());
        if left.is_zero() {
            // Not sent, so that even of an import the outcome is known.
            return Err(Error::from_status(&Status::deadline_exceeded("the timeout is over"), false));
        }
        let mut attempt = Request::new(request.clone());
        attempt.set_timeout(left);
        let status = match timeout_at(deadline, method(stub.clone(), attempt)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer came within the timeout"),
        };
        let error = Error::from_status(&status, changes_key);
        let left = deadline.duration_since(Instant::now());
        let Some(delay) = delay(&error, changes_key, failures, left, chance()) else { return Err(error) };
        sleep(delay).await;
        failures += 1;
    }
}

/// How long to wait before a call is made again; `None` if that is not to be.
///
/// `failures` counts those of this call before this one, `left` is what remains of the timeout, and `chance` is random,
/// from 0 to 1.
pub(crate) fn delay(error: &Error, changes_key: bool, failures: u32, left: Duration, chance: f64) -> Option<Duration> {
    let delay = if !error.reason().is_empty() {
        // The broker attaches it only where the same request can succeed, imports included. Whoever says that nobody
        // knows the outcome contradicts himself.
        let told = error.retry_after().filter(|_| error.kind() != ErrorKind::OutcomeUnknown)?;
        // No delay at all would be a loop as fast as the connection.
        told.max(FIRST_DELAY)
    } else if matches!(error.code(), Some(Code::Unavailable | Code::Cancelled)) && !changes_key {
        // The broker is restarting. A caller who cancels drops the call, and never comes here.
        FIRST_DELAY.saturating_mul(1 << failures.min(16)).min(LONGEST_DELAY)
    } else {
        return None;
    };
    // Half a century is as good as for ever, and no product of it overflows.
    let delay = delay.min(Duration::from_secs(50 * 365 * 86_400)).mul_f64(1.0 + STRETCH * chance);
    (delay <= left).then_some(delay)
}

/// From 0 to 1, at random.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    // Without randomness the delay is the plain one.
    let _ = rand::fill(&mut bytes);
    f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX)
}
