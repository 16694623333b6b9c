//! What can go wrong with an import, one [`ErrorKind`] per reason, so that a caller can match exactly what it can mend.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};

use crate::status::{Details, breaks_off, code_of, message_of};
use crate::v1::ErrorReason;

/// What went wrong; all but the last four stand for one reason each of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key id is neither a key id nor a key ARN.
    KeyIdMalformed,
    /// The key was named by an alias.
    AliasNotAllowed,
    /// Another field, named in [`Error::field`], is missing, too long or out of range.
    RequestMalformed,
    /// The key is in a Region or partition this broker does not serve.
    RegionNotServed,
    /// The algorithm is out of date, and the broker's settings do not allow it by name.
    WrappingAlgorithmDeprecated,
    /// The broker's policy does not allow this wrapping algorithm.
    WrappingAlgorithmNotAllowed,
    /// The broker's policy does not allow this wrapping key spec.
    WrappingKeySpecNotAllowed,
    /// This kind of key cannot be wrapped so; [`Error::metadata`] says under `suitable` what can be.
    WrappingUnsuitable,
    /// The broker accepts no identity the caller has shown.
    CallerUnauthenticated,
    /// The key belongs to another AWS account than the broker's.
    ForeignAccount,
    /// The caller has no right to this operation on this key, whether or not the key exists.
    CallerNotAuthorized,
    /// KMS knows no such key.
    KeyNotFound,
    /// The key was not created with origin EXTERNAL.
    KeyNotExternal,
    /// The key's state does not allow it.
    KeyStateIncompatible,
    /// KMS does not accept the import token for this key: get new parameters and wrap again.
    ImportTokenInvalid,
    /// The import token has expired: get new parameters and wrap again.
    ImportTokenExpired,
    /// The key material is not what this key takes.
    KeyMaterialMismatch,
    /// KMS could not unwrap the key material.
    KeyMaterialUnreadable,
    /// The wait for KMS's quota is longer than the request's timeout.
    QuotaWaitExceedsDeadline,
    /// The line for KMS's quota is full.
    QuotaQueueFull,
    /// KMS refused for its quota.
    KmsThrottled,
    /// KMS is down or out of the broker's reach.
    KmsUnavailable,
    /// The broker's own AWS credentials are missing or expired.
    BrokerCredentials,
    /// The broker's AWS role lacks the KMS permission.
    KmsDeniedBroker,
    /// An import or delete was sent and no usable answer came, to the broker or to this library (then
    /// [`Error::reason`] is empty): look at the key before trying again.
    OutcomeUnknown,
    /// KMS's answer failed the broker's checks.
    KmsBadResponse,
    /// An error in the broker.
    Internal,
    /// This caller sends more requests, or asks for more new keys, than its share.
    CallerRateExceeded,
    /// Found here: the broker's answer is not what was asked for, and nothing may be wrapped under its public key.
    WrappingKeyRejected,
    /// Found here: the key material cannot be wrapped that way; nothing was sent.
    MaterialUnsuitable,
    /// Found here: the library was called in a way that it does not offer; nothing was sent.
    Argument,
    /// A failure without a reason, such as an unreachable broker, or with one newer than this library.
    Other,
}

impl ErrorKind {
    /// The kind of a reason; has to be extended, or does not compile, when the API gains a reason.
    fn of(reason: ErrorReason) -> Self {
        match reason {
            ErrorReason::Unspecified => Self::Other,
            ErrorReason::KeyIdMalformed => Self::KeyIdMalformed,
            ErrorReason::AliasNotAllowed => Self::AliasNotAllowed,
            ErrorReason::RequestMalformed => Self::RequestMalformed,
            ErrorReason::RegionNotServed => Self::RegionNotServed,
            ErrorReason::WrappingAlgorithmDeprecated => Self::WrappingAlgorithmDeprecated,
            ErrorReason::WrappingAlgorithmNotAllowed => Self::WrappingAlgorithmNotAllowed,
            ErrorReason::WrappingKeySpecNotAllowed => Self::WrappingKeySpecNotAllowed,
            ErrorReason::WrappingUnsuitable => Self::WrappingUnsuitable,
            ErrorReason::CallerUnauthenticated => Self::CallerUnauthenticated,
            ErrorReason::ForeignAccount => Self::ForeignAccount,
            ErrorReason::CallerNotAuthorized => Self::CallerNotAuthorized,
            ErrorReason::KeyNotFound => Self::KeyNotFound,
            ErrorReason::KeyNotExternal => Self::KeyNotExternal,
            ErrorReason::KeyStateIncompatible => Self::KeyStateIncompatible,
            ErrorReason::ImportTokenInvalid => Self::ImportTokenInvalid,
            ErrorReason::ImportTokenExpired => Self::ImportTokenExpired,
            ErrorReason::KeyMaterialMismatch => Self::KeyMaterialMismatch,
            ErrorReason::KeyMaterialUnreadable => Self::KeyMaterialUnreadable,
            ErrorReason::QuotaWaitExceedsDeadline => Self::QuotaWaitExceedsDeadline,
            ErrorReason::QuotaQueueFull => Self::QuotaQueueFull,
            ErrorReason::KmsThrottled => Self::KmsThrottled,
            ErrorReason::KmsUnavailable => Self::KmsUnavailable,
            ErrorReason::BrokerCredentials => Self::BrokerCredentials,
            ErrorReason::KmsDeniedBroker => Self::KmsDeniedBroker,
            ErrorReason::OutcomeUnknown => Self::OutcomeUnknown,
            ErrorReason::KmsBadResponse => Self::KmsBadResponse,
            ErrorReason::Internal => Self::Internal,
            ErrorReason::CallerRateExceeded => Self::CallerRateExceeded,
        }
    }
}

/// A request that did not succeed. Holds neither key material nor tokens, so that it can be logged.
#[derive(Clone, Debug)]
pub struct Error(Box<Particulars>);

#[derive(Clone, Debug)]
struct Particulars {
    kind: ErrorKind,
    message: String,
    reason: String,
    code: Option<Code>,
    retry_after: Option<Duration>,
    field: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Error {
    /// An error that this library itself found.
    pub(crate) fn local(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Particulars {
            kind,
            message: message.into(),
            reason: String::new(),
            code: None,
            retry_after: None,
            field: None,
            metadata: BTreeMap::new(),
        }))
    }

    /// The typed form of a failed call; where that `changes_key`, breaking off leaves the outcome open.
    pub(crate) fn from_status(status: &Status, changes_key: bool) -> Self {
        let details = Details::read(status.details());
        let (code, mut message) = (code_of(status), message_of(status));
        let mut kind = ErrorReason::from_str_name(&format!("ERROR_REASON_{}", details.info.reason))
            .map_or(ErrorKind::Other, ErrorKind::of);
        if changes_key && details.info.reason.is_empty() && breaks_off(code) {
            kind = ErrorKind::OutcomeUnknown;
            message = format!("the call broke off ({message}); look at the key before trying again");
        }
        Self(Box::new(Particulars {
            kind,
            message,
            reason: details.info.reason,
            code: Some(code),
            retry_after: details.retry_after,
            field: details.field,
            metadata: details.info.metadata.into_iter().collect(),
        }))
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// One sentence, fit to be shown.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The bare word of the broker's reason, such as `KEY_NOT_FOUND`; empty if the broker sent none.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The gRPC status of the call; `None` where this library itself found the error.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// How long to wait before the same request can succeed, if the broker said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The request's field at fault, if one is.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The broker's further particulars, such as `suitable`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// What finds this very request in the broker's log.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.metadata().get("correlation_id").map(String::as_str)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reason(), self.code()) {
            ("", None) => formatter.write_str(self.message()),
            ("", Some(code)) => write!(formatter, "{code:?}: {}", self.message()),
            (reason, _) => write!(formatter, "{reason}: {}", self.message()),
        }
    }
}

impl std::error::Error for Error {}
