"""Who a client certificate belongs to: read from the certificate itself, on every call, by SPIFFE's rules.

gRPC's own peer identities are not used: they take a CN or a DNS name for want of a URI, and cut a name at NUL.
https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from keybroker.errors import CallerUnauthenticated
from keybroker.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cryptography.x509.verification import Policy

_LONGEST_ID = 2048
_REMEMBERED = 10_000

# A trust domain in lower case, then at least one path segment; no percent-encoding, port, query, "." or "..".
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|$))[a-zA-Z0-9._-]+)+", re.ASCII)
_HOST_NAME = re.compile(r"[a-zA-Z0-9*._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Identity:
    """A name, and from when to when all certificates that vouch for it are valid."""

    name: str
    valid_from: datetime
    valid_to: datetime

    def is_valid(self, now: datetime) -> bool:
        return self.valid_from <= now <= self.valid_to


class Clients:
    """The client certificates that a set of CAs vouches for. For other CAs make another one."""

    def __init__(self, authorities: Sequence[x509.Certificate], *, require_tls_1_3: bool) -> None:
        self._store = Store(list(authorities))
        self._require_tls_1_3 = require_tls_1_3
        self._known: Lru[bytes, _Identity] = Lru(_REMEMBERED)

    def identify(self, peer: Mapping[str, Sequence[bytes]], now: datetime) -> str:
        """The SPIFFE ID of a connection's peer.

        Whether the certificate is valid is judged now and not when the connection was made: connections and TLS
        sessions outlive certificates.

        Args:
            peer: the connection's auth context.
            now: aware.

        Raises:
            CallerUnauthenticated
        """
        versions = (b"TLSv1.3",) if self._require_tls_1_3 else (b"TLSv1.2", b"TLSv1.3")
        if list(peer.get("transport_security_type", ())) != [b"ssl"] or _one(peer, "ssl_tls_version") not in versions:
            raise CallerUnauthenticated("not TLS, or of a version not allowed")
        leaf = _one(peer, "x509_pem_cert")
        chain = b"".join(peer.get("x509_pem_cert_chain", ()))
        # A digest, for what a client sends beside its own certificate may be anything, and long.
        presented = hashlib.sha256(leaf + b"\0" + chain).digest()
        identity = self._known.get(presented)
        if identity is None or not identity.is_valid(now):
            # Where one chain has ended there may be another, to a CA that was renewed in time.
            identity = self._examine(leaf, chain, now)
            self._known[presented] = identity
        if not identity.is_valid(now):
            raise CallerUnauthenticated(f"the certificate of {identity.name} is not valid now")
        return identity.name

    def _examine(self, leaf: bytes, chain: bytes, now: datetime) -> _Identity:
        try:
            certificate = x509.load_pem_x509_certificate(leaf)
            others = x509.load_pem_x509_certificates(chain) if chain else []
            name = spiffe_id(certificate)
            chained = self._require_chain(certificate, [other for other in others if other != certificate], now)
        except CallerUnauthenticated:
            raise
        except Exception as error:  # a client can send anything, and the parser has errors of many kinds
            raise CallerUnauthenticated("the certificate cannot be read") from error
        return _Identity(
            name,
            max(link.not_valid_before_utc for link in chained),
            min(link.not_valid_after_utc for link in chained),
        )

    def _require_chain(
        self, leaf: x509.Certificate, others: list[x509.Certificate], now: datetime
    ) -> list[x509.Certificate]:
        # TLS has checked the chain already, but maybe before the CAs were replaced.
        builder = PolicyBuilder().store(self._store).time(now)
        authority = ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, Criticality.AGNOSTIC, _require_authority
        )
        builder = builder.extension_policies(ee_policy=ExtensionPolicy.permit_all(), ca_policy=authority)
        try:
            return builder.build_client_verifier().verify(leaf, others).chain
        except VerificationError as error:
            raise CallerUnauthenticated("the certificate is not vouched for by the client CAs, or not now") from error


def spiffe_id(certificate: x509.Certificate) -> str:
    """The SPIFFE ID of a leaf certificate: its one URI SAN.

    Raises:
        CallerUnauthenticated: it has none, several, one that is no SPIFFE ID, or it is not a client's certificate.
        ValueError: the certificate cannot be read.
    """
    extensions = certificate.extensions
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CallerUnauthenticated("the certificate has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or len(uris[0]) > _LONGEST_ID or not _SPIFFE_ID.fullmatch(uris[0]):
        raise CallerUnauthenticated("the certificate has not one URI that is a SPIFFE ID")
    if not all(_HOST_NAME.fullmatch(name) for name in names.get_values_for_type(x509.DNSName)):
        raise CallerUnauthenticated("the certificate has a DNS name that is none")
    for extension in extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                raise CallerUnauthenticated("the certificate is a CA's")
            case x509.KeyUsage() as usage if usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
                raise CallerUnauthenticated("the certificate's key usage is not a client's")
            case x509.ExtendedKeyUsage() as usages if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
                raise CallerUnauthenticated("the certificate is not for client authentication")
    return uris[0]


def _require_authority(_: Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer is no CA")


def _one(peer: Mapping[str, Sequence[bytes]], name: str) -> bytes:
    values = peer.get(name, ())
    if len(values) != 1:
        raise CallerUnauthenticated(f"the connection has no {name}")
    return values[0]
