"""A TLS listener's files: the server's certificate, its key, the clients' CAs; read again when they change."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keybroker.errors import StartError
from keybroker.identity import Clients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from keybroker.clock import Clock
    from keybroker.metrics import Metrics
    from keybroker.settings_listeners import Tls

_log = logging.getLogger(__name__)

_HAND_OVER = 0.05
"""Seconds for handshakes that have just begun to take hold of the old configuration; they need microseconds."""


class CertificateError(StartError):
    """The files cannot be used; its text is for the operator, and names the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    digest: bytes
    configuration: grpc.ServerCertificateConfiguration
    clients: Clients
    not_after: datetime


class Certificates:
    """What a TLS listener presents and accepts. A bad change of the files is reported, and the last good ones kept."""

    def __init__(self, tls: Tls, *, path: str, metrics: Metrics, clock: Clock) -> None:
        """Reads the files.

        Args:
            tls: the listener's settings.
            path: of those settings, for messages.
            metrics: told of failures, and when the certificate expires.
            clock: the wall clock; one that has expired is no good.

        Raises:
            CertificateError
        """
        self._tls = tls
        self._path = path
        self._clock = clock
        self._failures = metrics.certificate_reload_failures.labels(listener=path)
        self._not_after = metrics.certificate_not_after_seconds.labels(listener=path)
        self._loaded = self._load()
        self._not_after.set(self._loaded.not_after.timestamp())
        self._failed_digest = b""
        self._changes: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)

    @property
    def clients(self) -> Clients:
        """Who is accepted now."""
        return self._loaded.clients

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for a server's port that follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration,
            self._changed,  # type: ignore[arg-type] # None is documented to mean no change
            require_client_authentication=True,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks at every handshake, on a thread of its own; None keeps what it has. What it had it frees as soon as
        # it is given another, though a handshake that asked just before may still be about to use it, and the process
        # crashes: https://github.com/grpc/grpc/issues/36693. So a change is handed over once, and late; meanwhile gRPC
        # lets no other handshake begin.
        try:
            configuration = self._changes.popleft()
        except IndexError:
            return None
        time.sleep(_HAND_OVER)
        return configuration

    def reload(self) -> None:
        """Reads the files again, and uses them if they have changed and are good."""
        digest = self._digest()
        if digest == self._loaded.digest:
            self._failed_digest = b""  # the same mistake made again is told again
            return
        if digest == self._failed_digest:
            return
        try:
            loaded = self._load()
        except CertificateError as error:
            self._failed_digest = digest
            self._failures.inc()
            _log.error("certificates not reloaded, the last good ones are kept: %s", error)
            return
        self._loaded = loaded
        self._not_after.set(loaded.not_after.timestamp())
        self._changes.append(loaded.configuration)
        _log.info("certificates reloaded", extra={"listener": self._path, "not_after": loaded.not_after.isoformat()})

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for name in ("certificate", "private_key", "client_ca"):
            try:
                content = Path(getattr(self._tls, name)).read_bytes()
            except OSError:
                content = b""
            digest.update(hashlib.sha256(content).digest())
        return digest.digest()

    def _load(self) -> _Loaded:
        digest = self._digest()
        certificate, key, authorities = (self._read(name) for name in ("certificate", "private_key", "client_ca"))
        with self._refusing("certificate: holds no PEM certificate that can be read"):
            chain = x509.load_pem_x509_certificates(certificate)
            not_after = chain[0].not_valid_after_utc
        with self._refusing("private_key: holds no PEM key without a password"):
            private_key = load_pem_private_key(key, password=None)
        if not _can_serve(private_key):
            raise CertificateError(f"{self._path}.private_key: must be RSA, Ed25519, or ECDSA on P-256, P-384, P-521")
        with self._refusing("certificate: has a key of an unknown kind"):
            public_key = chain[0].public_key()
        if private_key.public_key() != public_key:
            raise CertificateError(f"{self._path}.private_key: is not the key of the certificate")
        if not_after <= self._clock.now():
            raise CertificateError(f"{self._path}.certificate: has expired on {not_after.isoformat()}")
        with self._refusing("client_ca: holds no PEM certificate that can be read"):
            clients = Clients(
                x509.load_pem_x509_certificates(authorities), require_tls_1_3=self._tls.minimum_version == "1.3"
            )
        return _Loaded(
            digest=digest,
            configuration=grpc.ssl_server_certificate_configuration(
                [(key, certificate)], root_certificates=authorities
            ),
            clients=clients,
            not_after=not_after,
        )

    @contextmanager
    def _refusing(self, fault: str) -> Iterator[None]:
        """Whatever goes wrong is the file's fault: cryptography raises more kinds of exceptions than it documents."""
        try:
            yield
        except Exception as error:
            raise CertificateError(f"{self._path}.{fault}") from error

    def _read(self, name: str) -> bytes:
        path = Path(getattr(self._tls, name))
        try:
            return path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{self._path}.{name}: {path} cannot be read: {error.strerror}") from error


def _can_serve(key: PrivateKeyTypes) -> bool:
    """Whether gRPC can serve with such a key; of others it says nothing, and goes on with the certificate it has."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    return isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey)
