"""What can go wrong with an import, one class per reason, so that a caller can catch exactly what it can mend.

```
KeyImportError                   everything below, and reasons newer than this library
  RequestRefused                 ask differently
    KeyIdMalformed  AliasNotAllowed  RequestMalformed  RegionNotServed
    WrappingRefused              another wrapping algorithm or wrapping key spec
      WrappingAlgorithmDeprecated  WrappingAlgorithmNotAllowed  WrappingKeySpecNotAllowed  WrappingUnsuitable
  CallerRefused                  be someone else, or be granted more
    CallerUnauthenticated  CallerNotAuthorized  ForeignAccount
  KeyRefused                     another key, or this key in another state
    KeyNotFound  KeyNotExternal  KeyStateIncompatible
  ImportTokenRefused             get new parameters and wrap again
    ImportTokenInvalid  ImportTokenExpired
  KeyMaterialRefused             other key material, or wrapped otherwise
    KeyMaterialMismatch  KeyMaterialUnreadable
  TryLater                       the same request can succeed after `retry_after`
    QuotaWaitExceedsDeadline  QuotaQueueFull  CallerRateExceeded  KmsThrottled  KmsUnavailable  BrokerCredentials
  OutcomeUnknown                 look at the key before trying again
  BrokerFault                    the broker's operators must act; `correlation_id` is for them
    KmsDeniedBroker  KmsBadResponse  Internal
  WrappingKeyRejected            found here: the broker's answer is not to be wrapped under
  MaterialUnsuitable             found here, also a ValueError: this key material cannot be wrapped that way
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    # Only for its type: `keyimport wrap` runs where there is no network, and loads no gRPC.
    import grpc


class KeyImportError(Exception):
    """A request that did not succeed.

    Attributes:
        message: one sentence, fit to be shown.
        reason: the bare word of an ``ErrorReason``, or ``""`` if the broker sent none.
        code: the status of the call; None where this library itself raised the error.
        retry_after: how long to wait before the same request can succeed, if the broker said so.
        field: the request's field at fault, if one is.
        metadata: the broker's further particulars, such as ``suitable``.
    """

    by_reason: ClassVar[dict[str, type[KeyImportError]]] = {}

    def __init_subclass__(cls, *, reason: str = "") -> None:
        """Register the class as that of the reason."""
        super().__init_subclass__()
        if reason:
            KeyImportError.by_reason[reason] = cls

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode | None = None,
        retry_after: timedelta | None = None,
        field: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.retry_after = retry_after
        self.field = field
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        label = self.reason or (self.code.name if self.code else "")
        return f"{label}: {self.message}" if label else self.message

    @property
    def correlation_id(self) -> str | None:
        """What finds this very request in the broker's log."""
        return self.metadata.get("correlation_id")


class RequestRefused(KeyImportError):
    """The request cannot be carried out as it stands."""


class KeyIdMalformed(RequestRefused, reason="KEY_ID_MALFORMED"):
    """The key id is neither a key id nor a key ARN."""


class AliasNotAllowed(RequestRefused, reason="ALIAS_NOT_ALLOWED"):
    """The key was named by an alias."""


class RequestMalformed(RequestRefused, reason="REQUEST_MALFORMED"):
    """Another field, named in `field`, is missing, too long or out of range."""


class RegionNotServed(RequestRefused, reason="REGION_NOT_SERVED"):
    """The key is in a Region or partition this broker does not serve."""


class WrappingRefused(RequestRefused):
    """The wrapping algorithm or wrapping key spec is refused."""


class WrappingAlgorithmDeprecated(WrappingRefused, reason="WRAPPING_ALGORITHM_DEPRECATED"):
    """The algorithm is out of date, and the broker's settings do not allow it by name."""


class WrappingAlgorithmNotAllowed(WrappingRefused, reason="WRAPPING_ALGORITHM_NOT_ALLOWED"):
    """The broker's policy does not allow this wrapping algorithm."""


class WrappingKeySpecNotAllowed(WrappingRefused, reason="WRAPPING_KEY_SPEC_NOT_ALLOWED"):
    """The broker's policy does not allow this wrapping key spec."""


class WrappingUnsuitable(WrappingRefused, reason="WRAPPING_UNSUITABLE"):
    """This kind of key cannot be wrapped so; `metadata` says under ``suitable`` what can be."""


class CallerRefused(KeyImportError):
    """This caller may not do this."""


class CallerUnauthenticated(CallerRefused, reason="CALLER_UNAUTHENTICATED"):
    """The broker accepts no identity the caller has shown."""


class ForeignAccount(CallerRefused, reason="FOREIGN_ACCOUNT"):
    """The key belongs to another AWS account than the broker's."""


class CallerNotAuthorized(CallerRefused, reason="CALLER_NOT_AUTHORIZED"):
    """The caller has no right to this operation on this key, whether or not the key exists."""


class KeyRefused(KeyImportError):
    """The key cannot take imported key material now, or ever."""


class KeyNotFound(KeyRefused, reason="KEY_NOT_FOUND"):
    """KMS knows no such key."""


class KeyNotExternal(KeyRefused, reason="KEY_NOT_EXTERNAL"):
    """The key was not created with origin EXTERNAL."""


class KeyStateIncompatible(KeyRefused, reason="KEY_STATE_INCOMPATIBLE"):
    """The key's state does not allow it."""


class ImportTokenRefused(KeyImportError):
    """The parameter set cannot be used; a new one can."""


class ImportTokenInvalid(ImportTokenRefused, reason="IMPORT_TOKEN_INVALID"):
    """KMS does not accept the import token for this key."""


class ImportTokenExpired(ImportTokenRefused, reason="IMPORT_TOKEN_EXPIRED"):
    """The import token has expired."""


class KeyMaterialRefused(KeyImportError):
    """KMS did not accept the key material."""


class KeyMaterialMismatch(KeyMaterialRefused, reason="KEY_MATERIAL_MISMATCH"):
    """The key material is not what this key takes."""


class KeyMaterialUnreadable(KeyMaterialRefused, reason="KEY_MATERIAL_UNREADABLE"):
    """KMS could not unwrap the key material."""


class TryLater(KeyImportError):
    """Nothing is wrong with the request but its time."""


class QuotaWaitExceedsDeadline(TryLater, reason="QUOTA_WAIT_EXCEEDS_DEADLINE"):
    """The wait for KMS's quota is longer than the request's timeout."""


class CallerRateExceeded(TryLater, reason="CALLER_RATE_EXCEEDED"):
    """This caller sends more requests, or asks for more new keys, than its share."""


class QuotaQueueFull(TryLater, reason="QUOTA_QUEUE_FULL"):
    """The line for KMS's quota is full."""


class KmsThrottled(TryLater, reason="KMS_THROTTLED"):
    """KMS refused for its quota."""


class KmsUnavailable(TryLater, reason="KMS_UNAVAILABLE"):
    """KMS is down or out of the broker's reach."""


class BrokerCredentials(TryLater, reason="BROKER_CREDENTIALS"):
    """The broker's own AWS credentials are missing or expired."""


class OutcomeUnknown(KeyImportError, reason="OUTCOME_UNKNOWN"):
    """An import or delete was sent and no answer came, to the broker or to this library (then `reason` is empty)."""


class BrokerFault(KeyImportError):
    """The fault is the broker's."""


class KmsDeniedBroker(BrokerFault, reason="KMS_DENIED_BROKER"):
    """The broker's AWS role lacks the KMS permission."""


class KmsBadResponse(BrokerFault, reason="KMS_BAD_RESPONSE"):
    """KMS's answer failed the broker's checks."""


class Internal(BrokerFault, reason="INTERNAL"):
    """An error in the broker."""


class WrappingKeyRejected(KeyImportError):
    """The broker's answer is not what was asked for: nothing may be wrapped under its public key."""


class MaterialUnsuitable(KeyImportError, ValueError):
    """The key material cannot be wrapped that way: nothing was sent."""
