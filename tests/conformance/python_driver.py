"""The Python client's driver, as DRIVER.md describes it."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import grpc
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from keyimport import ImportType, KeyImportClient, KeyImportError, ParametersSource, Sharing
from keyimport.wrapping import algorithm_name, spec_name, wrap
from tests.kms_wrapping import unwrap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BYTES = {"key", "material", "encrypted_key_material", "import_token", "public_key", "private_key", "wrapped"}


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    """The request's fields as the client takes them."""
    given = {name: value for name, value in request.items() if name != "do"}
    if request["do"] == "connect":  # whose private_key is a path
        return given
    for name in _BYTES & given.keys():
        given[name] = base64.b64decode(given[name])
    if "timeout_ms" in given:
        given["timeout"] = given.pop("timeout_ms") / 1000
    if "min_remaining_seconds" in given:
        given["min_remaining_validity"] = timedelta(seconds=given.pop("min_remaining_seconds"))
    if "sharing" in given:
        given["sharing"] = Sharing.Value(f"SHARING_{given['sharing']}")
    if "import_type" in given:
        given["import_type"] = ImportType.Value(f"IMPORT_TYPE_{given['import_type']}")
    if "valid_to" in given:
        given["valid_to"] = datetime.fromisoformat(given["valid_to"])
    return given


@cache
def _public_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Session:
    """One connection at a time."""

    def __init__(self) -> None:
        self._client: KeyImportClient | None = None

    @property
    def client(self) -> KeyImportClient:
        if self._client is None:
            raise SystemExit("connect first")
        return self._client

    async def connect(
        self, target: str, ca: str | None = None, certificate: str | None = None, private_key: str | None = None
    ) -> dict[str, Any]:
        await self.close()
        credentials = None
        if ca and certificate and private_key:
            files = [await asyncio.to_thread(Path(name).read_bytes) for name in (ca, private_key, certificate)]
            credentials = grpc.ssl_channel_credentials(*files)
        self._client = await KeyImportClient(target, credentials=credentials).__aenter__()
        return {}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client:
            await client.__aexit__(None, None, None)

    async def get(self, **given: Any) -> dict[str, Any]:
        parameters = await self.client.get_parameters(**given)
        return {
            "key_arn": parameters.key_arn,
            "public_key": _encoded(parameters.public_key),
            "import_token": _encoded(parameters.import_token),
            "parameters_valid_to": _time(parameters.parameters_valid_to),
            "wrapping_algorithm": algorithm_name(parameters.wrapping_algorithm),
            "wrapping_key_spec": spec_name(parameters.wrapping_key_spec),
            "public_key_sha256": parameters.fingerprint,
            "source": ParametersSource.Name(parameters.source).removeprefix("PARAMETERS_SOURCE_"),
        }

    async def import_(self, **given: Any) -> dict[str, Any]:
        imported = await self.client.import_key_material(**given)
        return {
            "key_arn": imported.key_arn,
            "key_material_id": imported.key_material_id,
            "public_key_sha256": imported.public_key_sha256.hex(),
        }

    async def import_wrapped(self, **given: Any) -> dict[str, Any]:
        imported = await self.client.import_wrapped(**given)
        return {"key_arn": imported.key_arn, "key_material_id": imported.key_material_id}

    async def delete(self, **given: Any) -> dict[str, Any]:
        deleted = await self.client.delete_imported_key_material(**given)
        return {"key_arn": deleted.key_arn, "key_material_id": deleted.key_material_id}

    async def discard(self, **given: Any) -> dict[str, Any]:
        await self.client.discard(**given)
        return {}

    async def status(self, **given: Any) -> dict[str, Any]:
        status = await self.client.status(**given)
        valid_to = status.material_valid_to
        return {
            "key_arn": status.key_arn,
            "key_spec": status.key_spec,
            "key_state": status.key_state,
            "external_origin": status.external_origin,
            "multi_region": status.multi_region,
        } | ({"material_valid_to": _time(valid_to)} if valid_to else {})

    async def wrap(
        self, public_key: bytes, wrapping_algorithm: str, material: bytes, wrapping_key_spec: str = "UNSPECIFIED"
    ) -> dict[str, Any]:
        wrapped = wrap(material, public_key=public_key, algorithm=wrapping_algorithm, spec=wrapping_key_spec)
        return {"wrapped": _encoded(wrapped)}

    async def aes_key_wrap(self, key: bytes, material: bytes) -> dict[str, Any]:
        # The library has no function of its own for this step: what it takes for fresh randomness is the key.
        with mock.patch("secrets.token_bytes", return_value=key):
            wrapped = wrap(material, public_key=_public_key(), algorithm="RSA_AES_KEY_WRAP_SHA_256")
        return {"wrapped": _encoded(wrapped[256:])}

    async def unwrap(self, private_key: bytes, wrapping_algorithm: str, wrapped: bytes) -> dict[str, Any]:
        key = load_der_private_key(private_key, password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise SystemExit("no RSA key")
        return {"material": _encoded(unwrap(key, wrapping_algorithm, wrapped))}


def _error(error: KeyImportError | ValueError) -> dict[str, Any]:
    if not isinstance(error, KeyImportError):
        told = {"type": "ArgumentError", "message": str(error), "reason": "", "code": "", "field": ""}
        return told | {"metadata": {}, "retry_after_ms": None}
    return {
        "type": type(error).__name__,
        "reason": error.reason,
        "code": error.code.name if error.code else "",
        "message": error.message,
        "field": error.field or "",
        "metadata": error.metadata,
        "retry_after_ms": error.retry_after / timedelta(milliseconds=1) if error.retry_after else None,
    }


async def main() -> None:
    """Answers every line of standard input."""
    session = Session()
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        name = {"import": "import_"}.get(request["do"], request["do"])
        method: Callable[..., Awaitable[dict[str, Any]]] = getattr(session, name)
        try:
            answer = {"ok": await method(**_arguments(request))}
        except (KeyImportError, ValueError) as error:
            answer = {"error": _error(error)}
        print(json.dumps(answer), flush=True)
    await session.close()


if __name__ == "__main__":
    asyncio.run(main())
