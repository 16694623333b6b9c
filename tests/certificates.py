"""A little PKI for tests: CAs, leaves, and the shapes of leaf that no decent CA would sign."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

ALICE = "spiffe://corp.example/ns/a/sa/alice"
SERVER_NAME = "broker.test"

DAY = timedelta(days=1)
EMAIL, DNS, URI, X400 = 0x81, 0x82, 0x86, 0xA3
"""Tags of the names a subject alternative name can hold."""

_UNUSED_OID = x509.ObjectIdentifier("2.5.29.99")  # as long as any of 2.5.29
_UNUSED_DER = b"\x06\x03\x55\x1d\x63"
_SAN_DER = b"\x06\x03\x55\x1d\x11"


def name(common_name: str) -> x509.Name:
    """A distinguished name of one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def common_name(subject: x509.Name) -> str:
    """What `name` made the name of."""
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def of_no_version(identity: Identity) -> bytes:
    """Its certificate, as PEM, of the tenth version; X.509 has three, and the parser has an error of its own for it."""
    der = bytearray(identity.certificate.public_bytes(Encoding.DER))
    der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 9
    return ssl.DER_cert_to_PEM_cert(bytes(der)).encode()


def usage(*granted: str) -> x509.KeyUsage:
    """A key usage that grants these and no others."""
    known = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    return x509.KeyUsage(
        **{one: one in granted for one in [*known.split(), "crl_sign", "encipher_only", "decipher_only"]}
    )


def uris(*values: str) -> x509.SubjectAlternativeName:
    """Subject alternative names that are URIs."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in values])


def raw_san(*names: tuple[int, bytes]) -> x509.UnrecognizedExtension:
    """Subject alternative names of any content, each a tag and its bytes."""
    return raw_extension(b"\x30", b"".join(_tlv(bytes([tag]), value) for tag, value in names))


def raw_extension(tag: bytes, content: bytes) -> x509.UnrecognizedExtension:
    """A subject alternative name that is not what it should be."""
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, _tlv(tag, content))


def _tlv(tag: bytes, value: bytes) -> bytes:
    length = len(value)
    if length < 0x80:
        return tag + bytes([length]) + value
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return tag + bytes([0x80 | len(size)]) + size + value


_CLIENT_EXTENSIONS: tuple[tuple[x509.ExtensionType, bool], ...] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    (usage("digital_signature"), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate, its key, and the certificates between it and its CA."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate and its chain, leaf first."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.chain))

    @property
    def key_pem(self) -> bytes:
        """The private key, without a password."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def with_chain(self, *chain: x509.Certificate) -> Identity:
        """The same, sent with other certificates."""
        return Identity(certificate=self.certificate, key=self.key, chain=chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a certificate is to say of its owner; by default that it is a client without a name.

    Attributes:
        san: subject alternative names; raw where no builder would make them.
        without: extensions of a client's certificate that it has not.
        extensions: those it has beside, or in the place of, a client's own; each with whether it is critical.
    """

    subject: str = "a test"
    san: x509.ExtensionType | None = None
    valid_from: datetime = field(default_factory=lambda: datetime.now(UTC) - DAY)
    valid_to: datetime = field(default_factory=lambda: datetime.now(UTC) + DAY)
    without: Sequence[type[x509.ExtensionType]] = ()
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()
    key: CertificateIssuerPrivateKeyTypes | None = None


class Authority:
    """A CA, of its own making or made by another."""

    def __init__(
        self,
        subject: str = "test CA",
        *,
        issuer: Authority | None = None,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        ca: bool = True,
        path_length: int | None = None,
        constraints: x509.NameConstraints | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> None:
        """Makes a certificate that may sign others, or, where `ca` is false, may not and does it all the same."""
        now = datetime.now(UTC)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.issuer = issuer
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=ca, path_length=path_length), True),
            (usage("key_cert_sign", "crl_sign"), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
        ]
        if constraints:
            extensions.append((constraints, True))
        builder = _builder(
            subject=name(subject),
            issuer=issuer.certificate.subject if issuer else name(subject),
            issuer_key=issuer.key if issuer else self.key,
            public_key=self.key.public_key(),
            validity=(valid_from or now - 30 * DAY, valid_to or now + 30 * DAY),
            extensions=extensions,
        )
        self.certificate: x509.Certificate = builder.sign(issuer.key if issuer else self.key, SHA256())

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a leaf of this CA sends along: every certificate up to the root, and not the root."""
        return (self.certificate, *self.issuer.chain) if self.issuer else ()

    def renewed(self) -> Authority:
        """The same CA with another certificate, in which everything but its number and its time is the same."""
        return Authority(common_name(self.certificate.subject), key=self.key)

    def mint(self, shape: Shape) -> Identity:
        """A leaf of any shape."""
        key = shape.key or ec.generate_private_key(ec.SECP256R1())
        return Identity(certificate=self._build(shape, key).sign(self.key, SHA256()), key=key, chain=self.chain)

    def client(self, spiffe_id: str = ALICE, *, valid_to: datetime | None = None) -> Identity:
        """A client that is as it should be."""
        shape = Shape(san=uris(spiffe_id))
        return self.mint(shape if valid_to is None else Shape(san=uris(spiffe_id), valid_to=valid_to))

    def mint_with_two_sans(self, first: str, second: str) -> Identity:
        """A leaf that has the subject alternative name extension twice, which no builder makes."""
        key = ec.generate_private_key(ec.SECP256R1())
        other = x509.UnrecognizedExtension(_UNUSED_OID, uris(second).public_bytes())
        template = self._build(Shape(san=uris(first), extensions=[(other, False)]), key).sign(self.key, SHA256())
        body = template.tbs_certificate_bytes.replace(_UNUSED_DER, _SAN_DER)
        signature = self.key.sign(body, ec.ECDSA(SHA256()))
        rest = template.public_bytes(Encoding.DER)[_header_length(template) + len(body) :]
        algorithm = rest[: 2 + rest[1]]
        der = _tlv(b"\x30", body + algorithm + _tlv(b"\x03", b"\0" + signature))
        return Identity(certificate=x509.load_der_x509_certificate(der), key=key, chain=self.chain)

    def server(self, valid_to: datetime | None = None) -> Identity:
        """A server at localhost."""
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(SERVER_NAME), x509.DNSName("localhost")]
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = _builder(
            subject=name("the broker"),
            issuer=self.certificate.subject,
            issuer_key=self.key,
            public_key=key.public_key(),
            validity=(now - DAY, valid_to or now + DAY),
            extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (usage("digital_signature"), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
                (x509.SubjectAlternativeName([*names, address]), False),
            ],
        )
        return Identity(certificate=builder.sign(self.key, SHA256()), key=key, chain=self.chain)

    def _build(self, shape: Shape, key: CertificateIssuerPrivateKeyTypes) -> x509.CertificateBuilder:
        replaced = {type(extension) for extension, _ in shape.extensions} | set(shape.without)
        extensions = [*(pair for pair in _CLIENT_EXTENSIONS if type(pair[0]) not in replaced), *shape.extensions]
        if shape.san is not None:
            extensions.append((shape.san, False))
        return _builder(
            subject=name(shape.subject),
            issuer=self.certificate.subject,
            issuer_key=self.key,
            public_key=key.public_key(),
            validity=(shape.valid_from, shape.valid_to),
            extensions=extensions,
        )


def tls_channel(port: int, server_ca: Authority, client: Identity | None, cache: Any = None) -> grpc.aio.Channel:
    """A channel with connections of its own, to the broker on this machine.

    Args:
        port: the broker's.
        server_ca: whom the client trusts.
        client: whose certificate it sends; None for none.
        cache: TLS sessions to resume, of grpc.experimental.session_cache.
    """
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if cache is not None:
        options.append(("grpc.ssl_session_cache", cache))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=server_ca.pem,
        private_key=client.key_pem if client else None,
        certificate_chain=client.pem if client else None,
    )
    return grpc.aio.secure_channel(f"localhost:{port}", credentials, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The three files of a TLS listener."""

    certificate: Path
    private_key: Path
    client_ca: Path

    @classmethod
    def write(cls, directory: Path, server: Identity, *client_cas: Authority) -> TlsFiles:
        """Makes them."""
        files = cls(
            certificate=directory / "server.pem",
            private_key=directory / "server.key",
            client_ca=directory / "clients.pem",
        )
        files.serve(server)
        files.trust(*client_cas)
        return files

    def serve(self, server: Identity) -> None:
        """Puts another server certificate in the place of the last, file by file."""
        replace(self.certificate, server.pem)
        replace(self.private_key, server.key_pem)

    def trust(self, *client_cas: Authority) -> None:
        """Trusts these CAs alone."""
        replace(self.client_ca, b"".join(one.pem for one in client_cas))

    def setting(self, **more: str) -> dict[str, str]:
        """The listener's `tls` table."""
        files = {"certificate": self.certificate, "private_key": self.private_key, "client_ca": self.client_ca}
        return {key: str(path) for key, path in files.items()} | more


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another in one step, as careful tools do."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    os.replace(beside, path)  # noqa: PTH105 -- Path.replace says it the other way round


def _header_length(certificate: x509.Certificate) -> int:
    second = certificate.public_bytes(Encoding.DER)[1]
    return 2 if second < 0x80 else 2 + (second & 0x7F)


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    public_key: object,
    validity: tuple[datetime, datetime],
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)  # type: ignore[arg-type] # whatever kind of key a test wants
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    # Of two CAs of one name, a verifier tries the one whose key this is.
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    for extension, critical in [(authority, False), *extensions]:
        builder = builder.add_extension(extension, critical=critical)
    return builder
