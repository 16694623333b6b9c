"""What KMS and the SDK raise, each to its reason; the codes are walked through at a real socket in tests/faults."""

from __future__ import annotations

import aiohttp
import pytest
from botocore import exceptions as sdk
from botocore.exceptions import ClientError

from keybroker import errors
from keybroker.kms_errors import map_error


def _client_error(code: str, status: int) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "ImportKeyMaterial"
    )


@pytest.mark.parametrize(
    ("error", "reason", "unanswered"),
    [
        (_client_error("NotFoundException", 400), errors.KeyNotFound, False),
        (_client_error("ThrottlingException", 400), errors.KmsThrottled, False),
        (_client_error("AccessDeniedException", 400), errors.KmsDeniedBroker, False),
        (_client_error("ExpiredTokenException", 400), errors.BrokerCredentials, False),
        (_client_error("429", 429), errors.KmsThrottled, False),
        (
            ClientError({"Error": {"Code": "AccessDenied"}}, "AssumeRoleWithWebIdentity"),
            errors.BrokerCredentials,
            False,
        ),
        (ClientError({"Error": {"Code": "Throttling"}}, "AssumeRole"), errors.BrokerCredentials, False),
        (sdk.SSOTokenLoadError(error_msg="m"), errors.BrokerCredentials, False),
        (_client_error("KMSInternalException", 500), errors.KmsUnavailable, False),
        (_client_error("SomethingNew", 500), errors.KmsUnavailable, False),
        (_client_error("SomethingNew", 400), errors.KmsBadResponse, False),
        (_client_error("503", 503), errors.KmsUnavailable, True),
        (_client_error("404", 404), errors.KmsBadResponse, True),
        (_client_error("307", 307), errors.KmsBadResponse, True),
        (_client_error("", 400), errors.KmsBadResponse, True),
        (sdk.NoCredentialsError(), errors.BrokerCredentials, False),
        (sdk.CredentialRetrievalError(provider="p", error_msg="m"), errors.BrokerCredentials, False),
        (sdk.ParamValidationError(report="r"), errors.RequestMalformed, False),
        (sdk.ConnectTimeoutError(endpoint_url="u"), errors.KmsUnavailable, False),
        (sdk.SSLError(endpoint_url="u", error="e"), errors.KmsUnavailable, False),
        (sdk.ReadTimeoutError(endpoint_url="u"), errors.KmsUnavailable, True),
        (sdk.ConnectionClosedError(endpoint_url="u"), errors.KmsUnavailable, True),
        (sdk.HTTPClientError(error=OSError()), errors.KmsUnavailable, True),
        (sdk.HTTPClientError(error=ValueError("too long")), errors.KmsBadResponse, True),
        (TimeoutError(), errors.KmsUnavailable, True),
        (ValueError("what it says"), errors.KmsBadResponse, True),
        (KeyError("what it says"), errors.KmsBadResponse, True),
        (RuntimeError("what it says"), errors.KmsBadResponse, True),
    ],
    ids=repr,
)
def test_each_has_its_reason(error: Exception, reason: type[errors.BrokerError], unanswered: bool) -> None:
    """And whether KMS may have acted on the request all the same."""
    mapped = map_error(error)

    assert type(mapped) is reason
    assert mapped.unanswered == unanswered


def test_a_lost_connection_is_told_from_one_never_made() -> None:
    """The SDK raises one class for both; only a connection that was never made means nothing was sent."""
    never = aiohttp.ClientConnectorError(connection_key=None, os_error=OSError())  # type: ignore[arg-type]
    lost = aiohttp.ClientOSError()

    assert not map_error(sdk.EndpointConnectionError(endpoint_url="u", error=never)).unanswered
    assert map_error(sdk.EndpointConnectionError(endpoint_url="u", error=lost)).unanswered
