"""AWS clients that talk to the endpoint they were told, once per call, and to nothing else."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.exceptions import NoCredentialsError, UnknownRegionError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import aiohttp

BODY_LIMIT = 64 * 1024
"""The largest answer read, in bytes; KMS's largest, a parameter set, is below 16 KiB."""

CONNECT_LIMIT = 2.0
READ_LIMIT = 5.0
"""Seconds for a connection, and between two packets. Neither bounds a call: see kms.CALL_LIMIT."""

# At DEBUG these print import tokens, ciphertext and session tokens.
_TALKATIVE = ("botocore", "aiobotocore", "aiohttp", "urllib3", "asyncio")

_IDENTITY_ARN = re.compile(r"arn:(aws[a-z-]{0,12}):(?:sts|iam)::([0-9]{12}):.+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer read to its end: the part of aiohttp.ClientResponse that aiobotocore uses."""

    url: Any
    status: int
    raw_headers: Any
    body: bytes

    async def read(self) -> bytes:
        return self.body


class _Strict:
    """An aiohttp session that follows no redirect and reads no endless body."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, *args: Any, **kwargs: Any) -> _Answer:
        # A redirect would re-post the import token and ciphertext to whatever origin it names.
        async with self._session.request(*args, allow_redirects=False, **kwargs) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT:
                    response.close()
                    raise ValueError(f"answer of more than {BODY_LIMIT} bytes")
            return _Answer(response.url, response.status, response.raw_headers, bytes(body))


class _StrictSession(AIOHTTPSession):  # type: ignore[misc] # aiobotocore is untyped
    async def _get_session(self, proxy_url: str | None) -> _Strict:
        return _Strict(await super()._get_session(proxy_url))


def _quiet_sdk_loggers() -> None:
    """Holds the SDK's loggers at INFO, whatever the root logger is set to."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))


class Session:
    """Who the broker is at AWS: one lot of credentials, used and renewed by all clients of the process."""

    def __init__(self, region: str) -> None:
        """Nothing is looked for yet.

        Args:
            region: where the SDK asks for credentials, if it has to ask AWS.
        """
        _quiet_sdk_loggers()
        self._session = get_session()
        self._session.set_config_variable("region", region)
        self._credentials: Any = None

    async def require_credentials(self) -> None:
        """Finds credentials, and renews them where that is due.

        Raises:
            Exception: none are to be had; the SDK's providers raise what they like.
        """
        self._credentials = await self._session.get_credentials()
        if self._credentials is None:
            raise NoCredentialsError
        await self._credentials.get_frozen_credentials()

    def credentials_expiry(self) -> float:
        """When the credentials expire, in seconds since 1970; 0 if they do not, or none have been found yet."""
        # The SDK tells nobody; without this an operator learns of credentials that are not renewed by their end.
        expires = getattr(self._credentials, "_expiry_time", None)
        return expires.timestamp() if isinstance(expires, datetime) else 0.0

    def client(
        self, service: str, *, region: str, endpoint: str | None, fips: bool = False, dualstack: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        """An aiobotocore client; to be entered once and kept for the life of the process.

        Args:
            service: kms or sts.
            region: an AWS Region.
            endpoint: a URL, or None for AWS's own.
            fips: whether AWS's own is to be one with cryptography that is validated by FIPS 140.
            dualstack: whether AWS's own is to be one with IPv6, too.
        """
        config = AioConfig(
            http_session_cls=_StrictSession,
            retries={"mode": "standard", "total_max_attempts": 1},  # one request for each token of the quota
            connect_timeout=CONNECT_LIMIT,
            read_timeout=READ_LIMIT,
            max_pool_connections=32,
            proxies={},  # None would read HTTPS_PROXY from the environment
            ignore_configured_endpoint_urls=True,  # as AWS_ENDPOINT_URL_KMS
            use_fips_endpoint=fips and not endpoint,  # None would read AWS_USE_FIPS_ENDPOINT
            use_dualstack_endpoint=dualstack and not endpoint,  # as above
            parameter_validation=True,
        )
        manager: AbstractAsyncContextManager[Any] = self._session.create_client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            config=config,
            verify=True,  # None would read AWS_CA_BUNDLE
        )
        return manager


def partition_of(region: str) -> str:
    """The partition of a Region, as the SDK's endpoint rules have it; by its name's beginning. None's is ""."""
    try:
        partition: str = get_session().get_partition_for_region(region)
    except UnknownRegionError:
        return ""
    return partition


def has_fips(service: str, region: str) -> bool:
    """Whether the SDK lists a FIPS endpoint of a service in a Region."""
    # Its endpoint rules do not tell: they make up a name for any Region, which then cannot be resolved.
    for partition in get_session().get_data("endpoints")["partitions"]:
        endpoint = partition["services"].get(service, {}).get("endpoints", {}).get(region, {})
        if any(variant["tags"] == ["fips"] for variant in endpoint.get("variants", ())):
            return True
    return False


def parse_identity(answer: dict[str, Any]) -> tuple[str, str]:
    """Partition and account of GetCallerIdentity's answer.

    Raises:
        ValueError: the answer is not one STS gives.
    """
    match = _IDENTITY_ARN.fullmatch(str(answer.get("Arn")))
    if not match or match[2] != answer.get("Account"):
        raise ValueError("GetCallerIdentity's answer has no consistent Arn and Account")
    return match[1], match[2]
