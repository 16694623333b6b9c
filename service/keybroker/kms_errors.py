"""What a call to KMS can raise, and the one reason of the contract each becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
from botocore import exceptions as sdk

from keybroker import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# One row for each code KMS documents, and those common to AWS services. Matched on the code, never on the message or
# the SDK's exception class: botocore has no class for most of them.
# https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
_BY_CODE: Mapping[str, Callable[[], errors.BrokerError]] = {
    "NotFoundException": errors.KeyNotFound,
    "InvalidArnException": errors.KeyIdMalformed,
    "UnsupportedOperationException": errors.KeyNotExternal,
    "KMSInvalidStateException": errors.KeyStateIncompatible,
    "DisabledException": errors.KeyStateIncompatible,
    "InvalidImportTokenException": errors.ImportTokenInvalid,
    "ExpiredImportTokenException": errors.ImportTokenExpired,
    "IncorrectKeyMaterialException": errors.KeyMaterialMismatch,
    "InvalidCiphertextException": errors.KeyMaterialUnreadable,
    "AccessDeniedException": errors.KmsDeniedBroker,
    **dict.fromkeys(
        ("ValidationException", "ValidationError", "SerializationException", "InvalidParameterValueException"),
        errors.RequestMalformed,
    ),
    **dict.fromkeys(
        (
            "ThrottlingException",
            "Throttling",
            "TooManyRequestsException",
            "RequestLimitExceeded",
            "LimitExceededException",
        ),
        lambda: errors.KmsThrottled(retry_after=1.0),
    ),
    **dict.fromkeys(
        ("DependencyTimeoutException", "KMSInternalException", "InternalFailure", "ServiceUnavailable"),
        lambda: errors.KmsUnavailable(retry_after=1.0, answered=True),
    ),
    **dict.fromkeys(
        (
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OptInRequired",
        ),
        lambda: errors.BrokerCredentials(retry_after=5.0),
    ),
}

_NOT_SENT = (sdk.ConnectTimeoutError, sdk.ProxyConnectionError, sdk.SSLError)
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.MetadataRetrievalError,
    sdk.UnauthorizedSSOTokenError,
    sdk.SSOTokenLoadError,
    sdk.RefreshWithMFAUnsupportedError,
)
_OUR_CALLS = frozenset(
    {
        "DescribeKey",
        "GetParametersForImport",
        "ImportKeyMaterial",
        "DeleteImportedKeyMaterial",
        "GetCallerIdentity",
    }
)
_SERVER_ERRORS = 500
_TOO_MANY_REQUESTS = 429


def map_error(error: Exception) -> errors.BrokerError:
    """The broker's error for whatever a call into the SDK raised."""
    match error:
        case sdk.ClientError() if error.operation_name not in _OUR_CALLS:
            # The SDK's own, on the way to credentials: our request was not sent.
            return errors.BrokerCredentials(retry_after=5.0)
        case sdk.ClientError():
            return _map_answer(error)
        case sdk.ParamValidationError():
            return errors.RequestMalformed()
        case _ if isinstance(error, _NO_CREDENTIALS):
            return errors.BrokerCredentials(retry_after=5.0)
        case _ if isinstance(error, _NOT_SENT):
            return errors.KmsUnavailable(retry_after=1.0)
        case sdk.EndpointConnectionError():
            # aiobotocore uses this for every lost connection; only a connector error means nothing was sent.
            sent = not isinstance(error.kwargs.get("error"), aiohttp.ClientConnectorError)
            return errors.KmsUnavailable(retry_after=1.0, unanswered=sent)
        case sdk.HTTPClientError() if not isinstance(error.kwargs.get("error"), ValueError):
            return errors.KmsUnavailable(retry_after=1.0, unanswered=True)
        case TimeoutError():
            return errors.KmsUnavailable(retry_after=1.0, unanswered=True)
        case _:
            return errors.KmsBadResponse()


def _map_answer(error: Any) -> errors.BrokerError:
    response = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if make := _BY_CODE.get(code):
        return make()
    if status == _TOO_MANY_REQUESTS:
        return errors.KmsThrottled(retry_after=1.0)
    if status >= _SERVER_ERRORS:
        # With no code but the status itself, it was not KMS that answered, and KMS may have been reached behind it.
        return errors.KmsUnavailable(retry_after=1.0, unanswered=code.isdecimal(), answered=True)
    shaped = bool(code) and not code.isdecimal()
    return errors.KmsBadResponse(f"an error of code {code[:64]!r} and status {status}", unanswered=not shaped)
