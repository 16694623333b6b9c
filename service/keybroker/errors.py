"""Every way a request can fail, one class for each reason of the contract.

BrokerError
├── InvalidRequest            the request is wrong; `field` names where
│   ├── KeyIdMalformed, AliasNotAllowed, RequestMalformed, RegionNotServed
│   ├── WrappingAlgorithmDeprecated, WrappingAlgorithmNotAllowed, WrappingKeySpecNotAllowed, WrappingUnsuitable
│   └── KeyMaterialUnreadable
├── Refused                   the request is understood, and not carried out
│   ├── CallerUnauthenticated, ForeignAccount, CallerNotAuthorized
│   ├── KeyNotFound, KeyNotExternal, KeyStateIncompatible
│   └── ImportTokenInvalid, ImportTokenExpired, KeyMaterialMismatch
├── TryAgain                  later it may work; `retry_after` says when
│   ├── QuotaWaitExceedsDeadline, QuotaQueueFull, CallerRateExceeded, KmsThrottled
│   └── KmsUnavailable, BrokerCredentials
└── Failure                   nothing the caller did
    └── KmsDeniedBroker, OutcomeUnknown, KmsBadResponse, Internal

StartError stands apart: it is for the operator, before there is any request.

An error carries its `reason` and one fixed `sentence` for the caller. What really happened is its `__cause__` or its
`detail`; both go to the broker's log and never to a caller: AWS's texts hold role ARNs, and SDK texts hold tokens.
"""

from __future__ import annotations

from typing import ClassVar


class BrokerError(Exception):
    """A request failed for a reason of the contract.

    Attributes:
        reason: the word in google.rpc.ErrorInfo.
        sentence: what the caller reads.
        detail: what the log reads; empty if the cause says it all.
        metadata: what else the caller may know, as ErrorInfo metadata.
        unanswered: whether KMS may have carried out the request all the same.
        aws_request_id: of an error that came from KMS, KMS's id of the request; look at the `origin`'s.
        kms_span: of an error that came of a request to KMS, the request's span; likewise.
    """

    reason: ClassVar[str]
    sentence: ClassVar[str]
    unanswered: bool = False
    aws_request_id: str | None = None
    kms_span: object | None = None

    def __init__(self, detail: str = "", **metadata: str) -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail
        self.metadata = metadata

    @property
    def origin(self) -> BrokerError:
        """What was raised first: this, or what made the broker say this instead."""
        return self.__cause__.origin if isinstance(self.__cause__, BrokerError) else self


class InvalidRequest(BrokerError):
    """One field of the request is at fault.

    Attributes:
        field: the field's name in the request message, or None where no single one is.
        hint: a fixed sentence about this field; never contains what the caller sent.
    """

    field_name: ClassVar[str | None] = None

    def __init__(self, hint: str = "", *, field: str | None = None, detail: str = "", **metadata: str) -> None:
        super().__init__(detail or hint, **metadata)
        self.field = field or self.field_name
        self.hint = hint or self.sentence


class KeyIdMalformed(InvalidRequest):
    reason = "KEY_ID_MALFORMED"
    sentence = (
        "key_id must be a KMS key id, such as 1234abcd-12ab-34cd-56ef-1234567890ab or mrk- and 32 digits, or a key ARN;"
        " hexadecimal digits in lower case."
    )
    field_name = "key_id"


class AliasNotAllowed(InvalidRequest):
    reason = "ALIAS_NOT_ALLOWED"
    sentence = (
        "key_id must not be an alias, since an alias can change its key between two calls; send the key id or ARN."
    )
    field_name = "key_id"


class RequestMalformed(InvalidRequest):
    reason = "REQUEST_MALFORMED"
    sentence = "A field of the request is missing, too long or out of range."


class RegionNotServed(InvalidRequest):
    reason = "REGION_NOT_SERVED"
    sentence = "The key is in a Region or partition this broker does not serve; metadata lists those it does."
    field_name = "key_id"


class WrappingAlgorithmDeprecated(InvalidRequest):
    reason = "WRAPPING_ALGORITHM_DEPRECATED"
    sentence = "This wrapping algorithm is deprecated; leave it unspecified, or use one metadata lists."
    field_name = "wrapping_algorithm"


class WrappingAlgorithmNotAllowed(InvalidRequest):
    reason = "WRAPPING_ALGORITHM_NOT_ALLOWED"
    sentence = (
        "The broker's policy does not allow this wrapping algorithm; leave it unspecified, or use one metadata lists."
    )
    field_name = "wrapping_algorithm"


class WrappingKeySpecNotAllowed(InvalidRequest):
    reason = "WRAPPING_KEY_SPEC_NOT_ALLOWED"
    sentence = (
        "The broker's policy does not allow this wrapping key spec; leave it unspecified, or use one metadata lists."
    )
    field_name = "wrapping_key_spec"


class WrappingUnsuitable(InvalidRequest):
    reason = "WRAPPING_UNSUITABLE"
    sentence = "This algorithm and spec cannot wrap this kind of key; metadata lists the pairs that can."
    field_name = "wrapping_algorithm"


class KeyMaterialUnreadable(InvalidRequest):
    reason = "KEY_MATERIAL_UNREADABLE"
    sentence = (
        "KMS could not unwrap the key material: wrap it under the public key of the same set as the token, with the"
        " set's hash for OAEP and for MGF1 alike (many tools default to SHA-1), and send bytes, not base64."
    )
    field_name = "encrypted_key_material"


class Refused(BrokerError):
    """The request is well formed, and is not carried out."""


class CallerUnauthenticated(Refused):
    reason = "CALLER_UNAUTHENTICATED"
    sentence = "The caller has no identity this broker accepts."


class ForeignAccount(Refused):
    reason = "FOREIGN_ACCOUNT"
    sentence = "The key belongs to another AWS account; this broker imports into its own only."


class CallerNotAuthorized(Refused):
    reason = "CALLER_NOT_AUTHORIZED"
    sentence = "The caller has no right to this operation on this key."


class KeyNotFound(Refused):
    reason = "KEY_NOT_FOUND"
    sentence = "KMS knows no such key in this Region; a key just created can take some seconds to be found."


class KeyNotExternal(Refused):
    reason = "KEY_NOT_EXTERNAL"
    sentence = "The key does not take imported key material; only a key created with origin EXTERNAL does."


class KeyStateIncompatible(Refused):
    reason = "KEY_STATE_INCOMPATIBLE"
    sentence = (
        "The key's state does not allow this now, for example because it is pending deletion or an import is pending."
    )


class ImportTokenInvalid(Refused):
    reason = "IMPORT_TOKEN_INVALID"
    sentence = "KMS does not accept this import token for this key; get new parameters and wrap the key material again."


class ImportTokenExpired(Refused):
    reason = "IMPORT_TOKEN_EXPIRED"
    sentence = "The import token has expired; get new parameters and wrap the key material again."


class KeyMaterialMismatch(Refused):
    reason = "KEY_MATERIAL_MISMATCH"
    sentence = (
        "The key material is not what this key takes: its kind or length differs from the key's spec, or it is not the"
        " key material imported before. Get new parameters, and wrap the right key material."
    )


class TryAgain(BrokerError):
    """The same request may succeed later.

    Attributes:
        retry_after: seconds after which it is worth trying.
    """

    def __init__(self, detail: str = "", *, retry_after: float, **metadata: str) -> None:
        super().__init__(detail, **metadata)
        self.retry_after = retry_after


class QuotaWaitExceedsDeadline(TryAgain):
    reason = "QUOTA_WAIT_EXCEEDS_DEADLINE"
    sentence = "The wait for KMS's quota is longer than this request's deadline; come back after the time in RetryInfo."


class QuotaQueueFull(TryAgain):
    reason = "QUOTA_QUEUE_FULL"
    sentence = "The line for KMS's quota is full; come back after the time in RetryInfo."


class CallerRateExceeded(TryAgain):
    reason = "CALLER_RATE_EXCEEDED"
    sentence = (
        "The caller sends more requests, or asks for more new keys, than its share; come back after RetryInfo's time."
    )


class KmsThrottled(TryAgain):
    reason = "KMS_THROTTLED"
    sentence = (
        "KMS throttled the request: others in the account spend its quota too. Come back after the time in RetryInfo."
    )


class KmsUnavailable(TryAgain):
    """KMS is down, or seems so.

    Attributes:
        answered: whether an error of its own was KMS's answer; it may have trouble with this one key.
    """

    reason = "KMS_UNAVAILABLE"
    sentence = "KMS cannot be reached, or has an internal error. Try again."

    def __init__(
        self, detail: str = "", *, retry_after: float, unanswered: bool = False, answered: bool = False
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.unanswered = unanswered
        self.answered = answered


class BrokerCredentials(TryAgain):
    reason = "BROKER_CREDENTIALS"
    sentence = "The broker's own AWS credentials are missing or expired; its operator has to act."


class Failure(BrokerError):
    """Nothing the caller did, and nothing a plain retry mends."""


class KmsDeniedBroker(Failure):
    reason = "KMS_DENIED_BROKER"
    sentence = "KMS denied this to the broker's own AWS role; its operator, or the key's policy, has to allow it."


class OutcomeUnknown(Failure):
    reason = "OUTCOME_UNKNOWN"
    sentence = (
        "The request was sent to KMS and no answer came, so it may have been done; look at the key before retrying."
    )


class KmsBadResponse(Failure):
    reason = "KMS_BAD_RESPONSE"
    sentence = "KMS's answer failed the broker's checks, and nothing of it was used; the broker's log has the cause."

    def __init__(self, detail: str = "", *, unanswered: bool = True) -> None:
        super().__init__(detail)
        self.unanswered = unanswered


class Internal(Failure):
    reason = "INTERNAL"
    sentence = "The broker failed; its log has the cause under the correlation id."


class StartError(Exception):
    """The broker cannot start as its settings say; the text is for the operator, and begins with the setting."""
