"""The client of keybroker: key material is wrapped in this process and leaves it only wrapped."""
# ruff: noqa: ASYNC109 -- a timeout here becomes the deadline that gRPC tells the broker

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc

from keyimport import wrapping
from keyimport.errors import ImportTokenRefused, OutcomeUnknown, from_rpc
from keyimport.v1 import key_import_pb2, key_import_pb2_grpc
from keyimport.v1.key_import_pb2 import ImportType, Sharing, WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from types import TracebackType

    from keyimport.wrapping import Parameters

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API.
_MESSAGE_BYTES: Final = 64 * 1024
_CHANNEL_OPTIONS: Final = (
    # An import is sent once. gRPC would otherwise send again by itself, or when a DNS record's service config says so.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # No proxy from the environment: it could answer in the broker's place.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKeyMaterial:
    """What was imported.

    Attributes:
        key_arn: the key's ARN.
        key_material_id: the id KMS gave to the key material; empty unless the key is a symmetric encryption key.
        public_key_sha256: SHA-256 of the public key it was wrapped under; empty if it was wrapped elsewhere.
    """

    key_arn: str
    key_material_id: str
    public_key_sha256: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedKeyMaterial:
    """What was deleted: the key's ARN and, of a symmetric encryption key, the key material's id."""

    key_arn: str
    key_material_id: str


class KeyImportClient:
    """A connection to a broker, open inside ``async with``. What the broker refuses is raised as a `KeyImportError`.

    Args:
        target: ``unix:PATH``, ``tcp:HOST:PORT`` or ``HOST:PORT``.
        credentials: for mutual TLS; a tcp target needs them unless it is a loopback address.
        timeout: seconds that a method may take in all, where its own `timeout` does not say otherwise.
    """

    def __init__(
        self, target: str, *, credentials: grpc.ChannelCredentials | None = None, timeout: float = 30.0
    ) -> None:
        self._target = _grpc_target(target, encrypted=credentials is not None)
        self._credentials = credentials
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise RuntimeError("the client is open already")
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=_CHANNEL_OPTIONS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def get_parameters(
        self,
        key_id: str,
        *,
        wrapping_algorithm: WrappingAlgorithm.ValueType | str = WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
        wrapping_key_spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
        min_remaining_validity: timedelta | None = None,
        sharing: Sharing.ValueType = Sharing.SHARING_UNSPECIFIED,
        timeout: float | None = None,
    ) -> Parameters:
        """Get a parameter set for a key.

        Args:
            key_id: a key id or key ARN.
            wrapping_algorithm: enum value or name; unspecified leaves the choice to the broker.
            wrapping_key_spec: enum value or name; unspecified leaves the choice to the broker.
            min_remaining_validity: the least time the set must remain valid; None leaves it to the broker.
            sharing: whether other callers may be given the same set.
            timeout: seconds.

        Raises:
            WrappingKeyRejected: the answer contradicts itself or the request.
            KeyImportError: the broker refused, or could not be reached.
        """
        request = key_import_pb2.GetParametersForImportRequest(
            key_id=key_id,
            wrapping_algorithm=wrapping.algorithm_number(wrapping_algorithm),
            wrapping_key_spec=wrapping.spec_number(wrapping_key_spec),
            sharing=sharing,
        )
        if min_remaining_validity is not None:
            request.min_remaining_validity.FromTimedelta(min_remaining_validity)
        answer = await self._call(self._stub.GetParametersForImport, request, self._budget(timeout))
        return wrapping.checked(answer, request)

    async def import_key_material(
        self,
        key_id: str,
        material: bytes,
        *,
        valid_to: datetime | None = None,
        never_expires: bool = False,
        wrapping_algorithm: WrappingAlgorithm.ValueType | str = WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
        wrapping_key_spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
        sharing: Sharing.ValueType = Sharing.SHARING_UNSPECIFIED,
        import_type: ImportType.ValueType = ImportType.IMPORT_TYPE_UNSPECIFIED,
        key_material_id: str = "",
        key_material_description: str = "",
        timeout: float | None = None,
    ) -> ImportedKeyMaterial:
        """Get parameters, wrap the key material here, and import it.

        A token that KMS does not accept (any more) is answered once, by a new set and a new wrapping. Nothing else is
        tried again.

        Args:
            key_id: a key id or key ARN.
            material: AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER.
            valid_to: when the key material expires, with its timezone; the alternative to `never_expires`.
            never_expires: True if it never does; the alternative to `valid_to`.
            wrapping_algorithm: as for `get_parameters`.
            wrapping_key_spec: as for `get_parameters`.
            sharing: as for `get_parameters`.
            import_type: whether the material is new to a symmetric encryption key.
            key_material_id: the id of known material of a symmetric encryption key.
            key_material_description: a note stored with the material of a symmetric encryption key.
            timeout: seconds, for all of it.

        Raises:
            ValueError: not exactly one expiration was chosen, or a time has no timezone.
            MaterialUnsuitable: the material cannot be wrapped; nothing was sent.
            OutcomeUnknown: look at the key before trying again.
            KeyImportError: see `keyimport.errors`.
        """
        request = _import_request(
            valid_to=valid_to,
            never_expires=never_expires,
            import_type=import_type,
            key_material_id=key_material_id,
            key_material_description=key_material_description,
        )
        wrapping.check_material(material, algorithm=wrapping_algorithm, spec=wrapping_key_spec)
        remaining = self._budget(timeout)

        async def attempt() -> ImportedKeyMaterial:
            parameters = await self.get_parameters(
                key_id,
                wrapping_algorithm=wrapping_algorithm,
                wrapping_key_spec=wrapping_key_spec,
                sharing=sharing,
                timeout=remaining(),
            )
            # The ARN rather than the caller's key_id: what was checked is what is imported into.
            request.key_id = parameters.key_arn
            request.import_token = parameters.import_token
            request.encrypted_key_material = parameters.wrap(material)
            return await self._import(request, remaining, parameters.public_key_sha256)

        try:
            return await attempt()
        except ImportTokenRefused:
            # The broker forgets a set when it learns this, so the next one is another.
            return await attempt()

    async def import_wrapped(
        self,
        key_id: str,
        encrypted_key_material: bytes,
        import_token: bytes,
        *,
        valid_to: datetime | None = None,
        never_expires: bool = False,
        import_type: ImportType.ValueType = ImportType.IMPORT_TYPE_UNSPECIFIED,
        key_material_id: str = "",
        key_material_description: str = "",
        timeout: float | None = None,
    ) -> ImportedKeyMaterial:
        """Import key material that was wrapped elsewhere, such as in an HSM; tried once.

        `encrypted_key_material` is wrapped under the public key of the set that `import_token` is of. The other
        arguments and the errors are those of `import_key_material`.
        """
        request = _import_request(
            valid_to=valid_to,
            never_expires=never_expires,
            import_type=import_type,
            key_material_id=key_material_id,
            key_material_description=key_material_description,
        )
        request.key_id = key_id
        request.import_token = import_token
        request.encrypted_key_material = encrypted_key_material
        return await self._import(request, self._budget(timeout), b"")

    async def delete_imported_key_material(
        self, key_id: str, *, key_material_id: str = "", timeout: float | None = None
    ) -> DeletedKeyMaterial:
        """Delete imported key material: the key is unusable until the same material is imported again.

        Args:
            key_id: a key id or key ARN.
            key_material_id: which material of a symmetric encryption key; empty means the current one.
            timeout: seconds.

        Raises:
            OutcomeUnknown: look at the key before trying again.
            KeyImportError: see `keyimport.errors`.
        """
        request = key_import_pb2.DeleteImportedKeyMaterialRequest(key_id=key_id, key_material_id=key_material_id)
        answer = await self._call(
            self._stub.DeleteImportedKeyMaterial, request, self._budget(timeout), changes_key=True
        )
        _require_same_key(answer.key_arn, key_id)
        return DeletedKeyMaterial(key_arn=answer.key_arn, key_material_id=answer.key_material_id)

    async def discard(self, key_id: str, import_token: bytes, *, timeout: float | None = None) -> None:
        """Report a parameter set as spent or suspect, so that the broker hands it to no one any more."""
        request = key_import_pb2.DiscardParametersRequest(key_id=key_id, import_token=import_token)
        await self._call(self._stub.DiscardParameters, request, self._budget(timeout))

    async def _import(
        self,
        request: key_import_pb2.ImportKeyMaterialRequest,
        remaining: Callable[[], float],
        public_key_sha256: bytes,
    ) -> ImportedKeyMaterial:
        answer = await self._call(self._stub.ImportKeyMaterial, request, remaining, changes_key=True)
        _require_same_key(answer.key_arn, request.key_id)
        return ImportedKeyMaterial(
            key_arn=answer.key_arn, key_material_id=answer.key_material_id, public_key_sha256=public_key_sha256
        )

    @property
    def _stub(self) -> key_import_pb2_grpc.KeyImportServiceAsyncStub:
        if self._channel is None:
            raise RuntimeError("the client is open only inside `async with`")
        return key_import_pb2_grpc.KeyImportServiceStub(self._channel)

    def _budget(self, timeout: float | None) -> Callable[[], float]:
        """A function saying how many seconds are left, so that several calls share one timeout."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + (self._timeout if timeout is None else timeout)
        return lambda: deadline - clock()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        remaining: Callable[[], float],
        *,
        changes_key: bool = False,
    ) -> _Response:
        try:
            return await method(request, timeout=remaining())
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, changes_key=changes_key) from error


def _grpc_target(target: str, *, encrypted: bool) -> str:
    if target.startswith("unix:"):
        if encrypted:
            raise ValueError("a unix socket takes no TLS credentials")
        return target
    host, colon, port = target.removeprefix("tcp:").rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise ValueError(f"{target!r} is none of unix:PATH, tcp:HOST:PORT and HOST:PORT")
    # Whoever can answer in the broker's place can have the key material wrapped for himself.
    if not encrypted and not _is_loopback(host.strip("[]")):
        raise ValueError(f"{target!r} is not on this machine, so the connection needs TLS credentials")
    return f"dns:///{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import_request(
    *,
    valid_to: datetime | None,
    never_expires: bool,
    import_type: ImportType.ValueType,
    key_material_id: str,
    key_material_description: str,
) -> key_import_pb2.ImportKeyMaterialRequest:
    """The request, still without key, token and material."""
    if (valid_to is not None) == never_expires:
        raise ValueError("choose exactly one of valid_to and never_expires")
    request = key_import_pb2.ImportKeyMaterialRequest(
        import_type=import_type, key_material_id=key_material_id, key_material_description=key_material_description
    )
    if valid_to is None:
        request.never_expires = True
    elif valid_to.utcoffset() is None:
        raise ValueError("valid_to needs a timezone")
    else:
        request.valid_to.FromDatetime(valid_to)
    return request


def _require_same_key(key_arn: str, key_id: str) -> None:
    if not wrapping.names_key(key_arn, key_id):
        raise OutcomeUnknown(f"the broker answered for {key_arn!r}, not for {key_id!r}; look at both keys")
