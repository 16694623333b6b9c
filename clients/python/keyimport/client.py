"""The client of keybroker: key material is wrapped in this process and leaves it only wrapped."""
# ruff: noqa: ASYNC109 -- a timeout here becomes the deadline that gRPC tells the broker

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc

from keyimport import wrapping
from keyimport.batch import BatchReader
from keyimport.channel import check_target, open_channel
from keyimport.errors import ImportTokenRefused, KeyImportError, OutcomeUnknown
from keyimport.requests import batch_request, import_request, parameters_request
from keyimport.results import DeletedKeyMaterial, ImportedKeyMaterial, KeyImportStatus, status_of
from keyimport.retry import delay_before_retry
from keyimport.rpc_errors import from_rpc
from keyimport.v1 import key_import_pb2, key_import_pb2_grpc
from keyimport.v1.key_import_pb2 import ImportType, Sharing, WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable
    from datetime import datetime, timedelta
    from types import TracebackType

    from keyimport.results import BatchNews
    from keyimport.wrapping import Parameters

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

# gRPC may send a request whose time is over as soon as it is made, and then nobody knows what became of it.
_LEAST_SECONDS: Final = 0.001


class KeyImportClient:
    """A connection to a broker, open inside ``async with``. What the broker refuses is raised as a `KeyImportError`.

    Within its timeout a method asks again where the broker says when the same request can succeed (`retry_after`), and
    those that change no key also where the broker is away for a moment. Where neither helps in the time left, the
    last error is raised. Nothing else is tried again.

    Args:
        target: ``unix:PATH``, ``tcp:HOST:PORT`` or ``HOST:PORT``.
        credentials: for mutual TLS; a tcp target needs them unless it is a loopback address.
        timeout: seconds that a method may take in all, where its own `timeout` does not say otherwise.
    """

    def __init__(
        self, target: str, *, credentials: grpc.ChannelCredentials | None = None, timeout: float = 30.0
    ) -> None:
        self._target = check_target(target, encrypted=credentials is not None)
        self._credentials = credentials
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise RuntimeError("the client is open already")
        self._channel = open_channel(self._target, self._credentials)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @property
    def connected(self) -> bool:
        """Whether a broker is at the other end at this moment."""
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

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
        request = parameters_request(
            key_id,
            wrapping_algorithm=wrapping_algorithm,
            wrapping_key_spec=wrapping_key_spec,
            min_remaining_validity=min_remaining_validity,
            sharing=sharing,
        )
        answer = await self._call(self._stub.GetParametersForImport, request, self._budget(timeout))
        return wrapping.checked(answer, request)

    async def get_parameters_batch(
        self,
        key_ids: Iterable[str],
        *,
        wrapping_algorithm: WrappingAlgorithm.ValueType | str = WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
        wrapping_key_spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
        min_remaining_validity: timedelta | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[BatchNews, None]:
        """Get a parameter set for each of many keys, as KMS's quota lets them be had.

        Nothing of a batch is tried again. Leaving the generator cancels the call, with `contextlib.aclosing` at once.

        Args:
            key_ids: 1 to 500 key ids or key ARNs, each once.
            wrapping_algorithm: as for `get_parameters`.
            wrapping_key_spec: as for `get_parameters`.
            min_remaining_validity: as for `get_parameters`.
            timeout: seconds for the whole batch; the broker refuses at once the keys whose turn comes later.

        Yields:
            For each key one `BatchParameters`, or one `BatchRefusal` with the error `get_parameters` would have raised,
            in the order of their coming; before it any number of `BatchProgress`.

        Raises:
            WrappingKeyRejected: an answer is of a key that was not asked for, or had its answer.
            KeyImportError: the broker refused the whole, or the stream broke off; keys not yet told of have no set.
        """
        request = batch_request(
            key_ids,
            wrapping_algorithm=wrapping_algorithm,
            wrapping_key_spec=wrapping_key_spec,
            min_remaining_validity=min_remaining_validity,
        )
        reader = BatchReader(request)
        call = self._stub.BatchGetParametersForImport(request, timeout=self._budget(timeout)())
        try:
            async for answer in call:
                if (news := reader.read(answer)) is not None:
                    yield news
            reader.finish()
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, changes_key=False) from error
        finally:
            call.cancel()

    async def status(self, key_id: str, *, timeout: float | None = None) -> KeyImportStatus:
        """What KMS tells of a key now, such as whether an import of unknown outcome was made.

        Args:
            key_id: a key id or key ARN.
            timeout: seconds.

        Raises:
            KeyImportError: the broker refused, answered for another key, or could not be reached.
        """
        request = key_import_pb2.GetKeyImportStatusRequest(key_id=key_id)
        answer = await self._call(self._stub.GetKeyImportStatus, request, self._budget(timeout))
        if not wrapping.names_key(answer.key_arn, key_id):
            raise KeyImportError(f"the broker's answer is refused: it is for {answer.key_arn!r}, not for {key_id!r}")
        return status_of(answer)

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

        A token that KMS does not accept (any more) is answered once, by a new set and a new wrapping. An import is
        sent again only where the broker says that the same request can succeed; where a call breaks off, never.

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
        request = import_request(
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
        """Import key material that was wrapped elsewhere, such as in an HSM.

        It is sent again only where the broker says that the same request can succeed, and never wrapped again.
        `encrypted_key_material` is wrapped under the public key of the set that `import_token` is of. The other
        arguments and the errors are those of `import_key_material`.
        """
        request = import_request(
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
        attempt = 0
        error = KeyImportError("the time was over before anything was sent", code=grpc.StatusCode.DEADLINE_EXCEEDED)
        while (left := remaining()) >= _LEAST_SECONDS:
            try:
                return await method(request, timeout=left)
            except grpc.aio.AioRpcError as cause:
                attempt += 1
                error = from_rpc(cause, changes_key=changes_key)
                delay = delay_before_retry(error, attempt=attempt, changes_key=changes_key)
                if delay is None or delay >= remaining():
                    raise error from cause
            await asyncio.sleep(delay)
        raise error


def _require_same_key(key_arn: str, key_id: str) -> None:
    if not wrapping.names_key(key_arn, key_id):
        raise OutcomeUnknown(f"the broker answered for {key_arn!r}, not for {key_id!r}; look at both keys")
