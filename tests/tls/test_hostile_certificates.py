"""Who gets in over mutual TLS: whoever has one good SPIFFE certificate of our CA, and nobody that looks like it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from demo.embedded_kms import aws_environment
from keybroker.errors import CallerUnauthenticated
from keybroker.identity import Clients
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.certificates import (
    ALICE,
    DAY,
    DNS,
    EMAIL,
    URI,
    X400,
    Authority,
    Identity,
    Shape,
    TlsFiles,
    common_name,
    of_no_version,
    raw_extension,
    raw_san,
    tls_channel,
    uris,
    usage,
)
from tests.conftest import refusal_of, running, settings_for
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from tests.conftest import Refusal, RunningBroker
    from tests.kms_double import KmsDouble

# One broker for the whole table, and gRPC wants one loop for all of it.
over_the_wire = pytest.mark.asyncio(loop_scope="module")

ADMIN = "spiffe://corp.example/ns/a/sa/admin"
KEYS = "arn:aws:kms:us-east-1:111122223333:key/*"
ALL = ["GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"]
RIGHTS = "GetParametersForImport"
NOW = datetime.now(UTC)
SECOND = DAY / 86_400


class Fate(Enum):
    """How far a certificate gets: not past TLS, or to the broker, which refuses it."""

    HANDSHAKE = auto()
    UNAUTHENTICATED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A broker behind TLS, and who signs for it."""

    broker: RunningBroker
    double: KmsDouble
    port: int
    server_ca: Authority
    ca: Authority
    audit: Path

    def stub(self, channel: grpc.aio.Channel) -> Any:
        """The service, by a channel."""
        return key_import_pb2_grpc.KeyImportServiceStub(channel)

    async def served(self, client: Identity) -> str:
        """A good client's call: the key it was served."""
        arn = self.double.add_key()
        async with tls_channel(self.port, self.server_ca, client) as channel:
            answer = await self.stub(channel).GetParametersForImport(_request(arn), timeout=10)
        key_arn: str = answer.key_arn
        assert key_arn == arn
        return key_arn

    async def refused(self, client: Identity | None, key_id: str) -> Refusal:
        """A call that is refused."""
        async with tls_channel(self.port, self.server_ca, client) as channel:
            return await refusal_of(self.stub(channel).GetParametersForImport(_request(key_id), timeout=10))

    def audited(self) -> list[dict[str, Any]]:
        """The audit so far."""
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


def _request(key_id: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=key_id, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One broker for all tests of this file."""
    directory = tmp_path_factory.mktemp("tls")
    server_ca, ca = Authority("server CA"), Authority("client CA")
    files = TlsFiles.write(directory, server_ca.server(), ca)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in aws_environment("111122223333").items():
            patch.setenv(key, value)
        async with kms_double() as double:
            settings = settings_for(
                directory,
                double.endpoint,
                listeners=[
                    {"address": f"unix:{directory}/broker.sock", "caller": "local"},
                    {"address": "tcp:127.0.0.1:0", "tls": files.setting()},
                ],
                callers=[{"id": "spiffe://corp.example/ns/*/sa/*", "keys": [KEYS], "operations": ALL}],
                audit={"file": str(directory / "audit.jsonl")},
            )
            async with running(settings) as broker:
                yield Bench(
                    broker=broker,
                    double=double,
                    port=broker.app.ports[1],
                    server_ca=server_ca,
                    ca=ca,
                    audit=directory / "audit.jsonl",
                )


@dataclass(frozen=True, slots=True)
class Hostile:
    """A row of the table.

    Attributes:
        fate: what becomes of it.
        make: makes the certificate, given our CA.
        openssl_sends_it: whether OpenSSL would load such a certificate, as gRPC's BoringSSL does.
    """

    fate: Fate
    make: Callable[[Authority], Identity | None]
    openssl_sends_it: bool = True


def _shape(**shape: Any) -> Callable[[Authority], Identity]:
    return lambda ca: ca.mint(Shape(**shape))


def _uri(*values: str) -> Hostile:
    return Hostile(Fate.UNAUTHENTICATED, _shape(san=uris(*values)))


def _raw_uri(value: bytes) -> Hostile:
    return Hostile(Fate.UNAUTHENTICATED, _shape(san=raw_san((URI, value))))


def _stopped(make: Callable[[Authority], Identity | None], *, openssl_sends_it: bool = True) -> Hostile:
    return Hostile(Fate.HANDSHAKE, make, openssl_sends_it)


def _alice(**shape: Any) -> Callable[[Authority], Identity]:
    return _shape(san=uris(ALICE), **shape)


def _bit_flipped(ca: Authority) -> Identity:
    good = ca.client()
    der = bytearray(good.certificate.public_bytes(Encoding.DER))
    der[-1] ^= 1
    return Identity(certificate=x509.load_der_x509_certificate(bytes(der)), key=good.key)


def _of_another_key(ca: Authority) -> Authority:
    """A CA that bears our CA's name."""
    return Authority(common_name(ca.certificate.subject))


def _self_signed(_: Authority) -> Identity:
    own = Authority("a test")
    return own.mint(Shape(san=uris(ALICE), key=own.key))


def _signed_by_a_leaf(ca: Authority) -> Identity:
    return Authority("a leaf", issuer=ca, ca=False).client()


def _constrained(ca: Authority) -> Identity:
    only = x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier("other.example")], excluded_subtrees=None
    )
    return Authority("constrained", issuer=ca, constraints=only).client()


def _too_deep(ca: Authority) -> Identity:
    return Authority("second", issuer=Authority("first", issuer=ca, path_length=0)).client()


SERVER_AUTH, CODE_SIGNING = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING

HOSTILE: Mapping[str, Hostile] = {
    # No name, or one in the wrong place.
    "cn-as-identity": Hostile(Fate.UNAUTHENTICATED, _shape(subject=ALICE)),
    "no-san": Hostile(Fate.UNAUTHENTICATED, _shape()),
    "empty-san": Hostile(Fate.UNAUTHENTICATED, _shape(san=raw_san())),
    "dns-san-alone": Hostile(
        Fate.UNAUTHENTICATED, _shape(san=x509.SubjectAlternativeName([x509.DNSName("alice.corp.example")]))
    ),
    "spiffe-id-as-dns-san": Hostile(Fate.UNAUTHENTICATED, _shape(san=raw_san((DNS, ADMIN.encode())))),
    "spiffe-id-as-dns-san-before-uri": Hostile(
        Fate.UNAUTHENTICATED, _shape(san=raw_san((DNS, ADMIN.encode()), (URI, ALICE.encode())))
    ),
    "spiffe-id-as-email": Hostile(Fate.UNAUTHENTICATED, _shape(san=raw_san((EMAIL, ALICE.encode())))),
    # Two names.
    "two-uris": _uri(ALICE, ADMIN),
    "the-same-uri-twice": _uri(ALICE, ALICE),
    "spiffe-id-and-web-address": _uri(ALICE, "https://corp.example/alice"),
    "two-san-extensions": _stopped(lambda ca: ca.mint_with_two_sans(ALICE, ADMIN), openssl_sends_it=False),
    # Bytes that end or hide a name.
    "nul-inside": _raw_uri(ADMIN.encode() + b"\0.evil.example/x"),
    "nul-at-the-end": _raw_uri(ALICE.encode() + b"\0"),
    "newline-at-the-end": _raw_uri(ALICE.encode() + b"\n"),
    "space-before": _raw_uri(b" " + ALICE.encode()),
    "not-ascii": _raw_uri("spiffe://corp.example/ns/a/sa/alicé".encode()),
    "cyrillic-lookalike": _raw_uri("spiffe://corp.example/ns/а/sa/alice".encode()),  # noqa: RUF001 -- that is the point
    "not-utf-8": _raw_uri(ALICE.encode() + b"\xff\xfe"),
    "unknown-kind-of-name": Hostile(
        Fate.UNAUTHENTICATED, _shape(san=raw_san((URI, ALICE.encode()), (X400, b"\x30\x00")))
    ),
    "san-that-is-none": _stopped(_shape(san=raw_extension(b"\x04", ALICE.encode())), openssl_sends_it=False),
    # URIs that are no SPIFFE IDs.
    "upper-case-scheme": _uri("SPIFFE://corp.example/ns/a/sa/alice"),
    "upper-case-trust-domain": _uri("spiffe://CORP.example/ns/a/sa/alice"),
    "percent-2f": _uri("spiffe://corp.example/ns/a%2fsa/alice"),
    "percent-encoded-letter": _uri("spiffe://corp.example/ns/a/sa/%61lice"),
    "two-dots": _uri("spiffe://corp.example/ns/b/../a/sa/alice"),
    "two-dots-at-the-end": _uri("spiffe://corp.example/ns/a/sa/.."),
    "one-dot": _uri("spiffe://corp.example/ns/./a/sa/alice"),
    "empty-segment": _uri("spiffe://corp.example/ns//a/sa/alice"),
    "slash-at-the-end": _uri("spiffe://corp.example/ns/a/sa/alice/"),
    "no-path": _uri("spiffe://corp.example"),
    "no-trust-domain": _uri("spiffe:///ns/a/sa/alice"),
    "port": _uri("spiffe://corp.example:443/ns/a/sa/alice"),
    "user": _uri("spiffe://root@corp.example/ns/a/sa/alice"),
    "query": _uri(f"{ALICE}?admin"),
    "fragment": _uri(f"{ALICE}#admin"),
    "wildcard": _uri("spiffe://corp.example/ns/*/sa/*"),
    "other-scheme": _uri("https://corp.example/ns/a/sa/alice"),
    "too-long": _uri("spiffe://corp.example/ns/a/sa/" + "a" * 2048),
    # Certificates for something else.
    "ca-true": Hostile(
        Fate.UNAUTHENTICATED, _alice(extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)])
    ),
    "may-sign-certificates": Hostile(
        Fate.UNAUTHENTICATED, _alice(extensions=[(usage("digital_signature", "key_cert_sign"), True)])
    ),
    "may-sign-crls": Hostile(Fate.UNAUTHENTICATED, _alice(extensions=[(usage("digital_signature", "crl_sign"), True)])),
    "may-not-sign": _stopped(_alice(extensions=[(usage("key_agreement"), True)])),
    "for-servers": _stopped(_alice(extensions=[(x509.ExtendedKeyUsage([SERVER_AUTH]), False)])),
    "for-code": _stopped(_alice(extensions=[(x509.ExtendedKeyUsage([CODE_SIGNING]), True)])),
    "unknown-critical-extension": _stopped(
        _alice(extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)])
    ),
    # Certificates of nobody we trust, or not now.
    "no-certificate": _stopped(lambda _: None),
    "other-ca": _stopped(lambda _: Authority("other CA").client()),
    "other-ca-of-the-same-name": _stopped(lambda ca: _of_another_key(ca).client()),
    "self-signed": _stopped(_self_signed),
    "signature-broken": _stopped(_bit_flipped),
    "signed-by-a-leaf": _stopped(_signed_by_a_leaf),
    "intermediate-left-out": _stopped(lambda ca: Authority("between", issuer=ca).client().with_chain()),
    "intermediate-expired": _stopped(lambda ca: Authority("between", issuer=ca, valid_to=NOW - DAY).client()),
    "chain-too-deep": _stopped(_too_deep),
    "outside-the-name-constraints": _stopped(_constrained),
    "expired": _stopped(_alice(valid_from=NOW - 2 * DAY, valid_to=NOW - DAY / 24)),
    "not-yet-valid": _stopped(_alice(valid_from=NOW + DAY / 24)),
}


@over_the_wire
@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_certificate_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    """At the stage the table says, with no call to KMS, and a good client is served before and after."""
    row = HOSTILE[case]
    client = row.make(bench.ca)
    good = bench.ca.client()
    unseen = bench.double.add_key()
    await bench.served(good)
    calls, lines = list(bench.double.calls), len(bench.audited())

    refused = await bench.refused(client, unseen)
    answered = await _bytes_after_handshake(bench, client, tmp_path) if row.openssl_sends_it else None

    written = bench.audited()[lines:]
    assert calls == bench.double.calls
    if row.fate is Fate.HANDSHAKE:
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "")
        assert not answered
        assert written == []
    else:
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED")
        assert answered
        assert [(line["code"], line["reason"]) for line in written] == [("UNAUTHENTICATED", "CALLER_UNAUTHENTICATED")]
        assert "caller" not in written[0]
    await bench.served(good)


async def _bytes_after_handshake(bench: Bench, client: Identity | None, directory: Path) -> bytes:
    """What the server sends once its turn comes: HTTP/2's first frame, or nothing.

    A client of TLS 1.3 is done before the server has looked at its certificate; and gRPC's client refuses to send some.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=bench.server_ca.pem.decode())
    context.set_alpn_protocols(["h2"])
    if client:
        (directory / "client.pem").write_bytes(client.pem)
        (directory / "client.key").write_bytes(client.key_pem)
        context.load_cert_chain(directory / "client.pem", directory / "client.key")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("localhost", bench.port, family=socket.AF_INET, ssl=context)
        try:
            return await reader.read(64)
        except OSError:
            return b""
        finally:
            writer.transport.abort()


def test_the_table_is_long_enough() -> None:
    """Nobody shortens it by accident."""
    assert len(HOSTILE) >= 50
    assert {Fate.HANDSHAKE, Fate.UNAUTHENTICATED} == {row.fate for row in HOSTILE.values()}


@over_the_wire
async def test_no_metadata_makes_a_caller(bench: Bench) -> None:
    """What proxies put into headers is not believed: neither for who has no name nor for who has another."""
    claims = (
        ("x-forwarded-client-cert", f"By=spiffe://corp.example/broker;URI={ADMIN}"),
        ("x-spiffe-id", ADMIN),
        ("authorization", f"Bearer {ADMIN}"),
        ("x-amzn-mtls-clientcert-subject", f"CN={ADMIN}"),
    )
    arn = bench.double.add_key()
    nameless = bench.ca.mint(Shape(subject=ADMIN))
    async with tls_channel(bench.port, bench.server_ca, nameless) as channel:
        refused = await refusal_of(bench.stub(channel).GetParametersForImport(_request(arn), metadata=claims))
    lines = len(bench.audited())
    async with tls_channel(bench.port, bench.server_ca, bench.ca.client()) as channel:
        await bench.stub(channel).GetParametersForImport(_request(arn), metadata=claims)

    assert refused.reason == "CALLER_UNAUTHENTICATED"
    assert [line["caller"] for line in bench.audited()[lines:]] == [ALICE]


@over_the_wire
async def test_who_is_served_by_which_name(bench: Bench) -> None:
    """A host name beside the URI does no harm, nor an intermediate CA, nor no usages at all."""
    between = Authority("between", issuer=Authority("above", issuer=bench.ca))
    host = x509.SubjectAlternativeName([x509.DNSName("a.corp.example"), x509.UniformResourceIdentifier(ALICE)])
    plain = Shape(san=uris(ALICE), without=[x509.KeyUsage, x509.ExtendedKeyUsage, x509.BasicConstraints])

    for client in (bench.ca.client(), between.client(), bench.ca.mint(Shape(san=host)), bench.ca.mint(plain)):
        await bench.served(client)

    assert [line["caller"] for line in bench.audited()[-4:]] == [ALICE] * 4


@over_the_wire
@pytest.mark.parametrize(
    ("spiffe_id", "served"),
    [
        ("spiffe://corp.example/ns/a/sa/b", True),
        ("spiffe://corp.example/ns/payments-eu/sa/web.v2", True),
        ("spiffe://corp.example/ns/a/b/sa/c", False),
        ("spiffe://corp.example/ns/a/sa/b/c", False),
        ("spiffe://corp.example/ns/sa/b", False),
        ("spiffe://corp.example/ns/a/sb/b", False),
        ("spiffe://corp.example/x/ns/a/sa/b", False),
        ("spiffe://corp.example/NS/a/sa/b", False),
        ("spiffe://corp.example.evil/ns/a/sa/b", False),
        ("spiffe://evil.corp.example/ns/a/sa/b", False),
        ("spiffe://corpxexample/ns/a/sa/b", False),
    ],
)
async def test_a_star_stays_within_its_place(bench: Bench, spiffe_id: str, served: bool) -> None:
    """`ns/*/sa/*` is any one namespace and any one account of it, in this trust domain alone."""
    client = bench.ca.client(spiffe_id)
    if served:
        await bench.served(client)
        return
    arn = bench.double.add_key()
    calls = list(bench.double.calls)
    refused = await bench.refused(client, arn)

    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED")
    assert calls == bench.double.calls
    assert bench.audited()[-1]["caller"] == spiffe_id


@over_the_wire
async def test_a_refusal_tells_nothing_of_the_key(bench: Bench) -> None:
    """To the byte the same for a key that is cached, one that exists and one that does not; KMS is not asked."""
    cached, existing = bench.double.add_key(), bench.double.add_key()
    missing = existing.rpartition("/")[0] + "/00000000-0000-4000-8000-000000000000"
    async with tls_channel(bench.port, bench.server_ca, bench.ca.client()) as channel:
        await bench.stub(channel).GetParametersForImport(_request(cached))
    calls = list(bench.double.calls)

    seen = set()
    async with tls_channel(bench.port, bench.server_ca, bench.ca.client("spiffe://corp.example/other")) as channel:
        stub = bench.stub(channel)
        for key in (cached, existing, missing):
            for call in (
                stub.GetParametersForImport(_request(key)),
                stub.ImportKeyMaterial(
                    pb.ImportKeyMaterialRequest(
                        key_id=key, import_token=b"t", encrypted_key_material=bytes(256), never_expires=True
                    )
                ),
                stub.DeleteImportedKeyMaterial(pb.DeleteImportedKeyMaterialRequest(key_id=key)),
                stub.DiscardParameters(pb.DiscardParametersRequest(key_id=key, import_token=b"t")),
            ):
                seen.add(await _bytes_of_refusal(call))

    assert len(seen) == 1
    assert "CALLER_NOT_AUTHORIZED" in str(seen)
    assert calls == bench.double.calls


async def _bytes_of_refusal(call: Any) -> tuple[Any, ...]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    error = raised.value
    return error.code(), error.details(), tuple(sorted(error.trailing_metadata() or ()))


CA = Authority("unit CA")


def _peer(client: Identity, **changes: Sequence[bytes] | None) -> dict[str, Sequence[bytes]]:
    """An auth context as gRPC makes it; None leaves an entry out."""
    entries: dict[str, Sequence[bytes] | None] = {
        "transport_security_type": [b"ssl"],
        "ssl_tls_version": [b"TLSv1.3"],
        "x509_pem_cert": [client.certificate.public_bytes(Encoding.PEM)],
        "x509_pem_cert_chain": [client.pem],
        **changes,
    }
    return {key: values for key, values in entries.items() if values is not None}


def _clients(*authorities: Authority, require_tls_1_3: bool = False) -> Clients:
    return Clients([one.certificate for one in authorities or (CA,)], require_tls_1_3=require_tls_1_3)


ONE_PEM = CA.client().certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "changes",
    [
        {"transport_security_type": None},
        {"transport_security_type": []},
        {"transport_security_type": [b"local"]},
        {"transport_security_type": [b"insecure"]},
        {"transport_security_type": [b"ssl", b"ssl"]},
        {"transport_security_type": [b"SSL"]},
        {"ssl_tls_version": None},
        {"ssl_tls_version": []},
        {"ssl_tls_version": [b""]},
        {"ssl_tls_version": [b"TLSv1.1"]},
        {"ssl_tls_version": [b"TLSv1"]},
        {"ssl_tls_version": [b"SSLv3"]},
        {"ssl_tls_version": [b"TLSv1.30"]},
        {"ssl_tls_version": [b"TLSv1.3", b"TLSv1.1"]},
        {"x509_pem_cert": None},
        {"x509_pem_cert": []},
        {"x509_pem_cert": [b""]},
        {"x509_pem_cert": [ONE_PEM, ONE_PEM]},
        {"x509_pem_cert": [b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]},
        {"x509_pem_cert_chain": [b"nonsense"]},
    ],
    ids=str,
)
def test_a_connection_that_says_too_little_or_too_much_names_nobody(changes: dict[str, Any]) -> None:
    """Every entry that is looked at must be there once and be what gRPC writes today; in doubt it is nobody."""
    clients = _clients()

    with pytest.raises(CallerUnauthenticated):
        clients.identify(_peer(CA.client(), **changes), NOW)


def test_grpcs_own_idea_of_the_peer_counts_for_nothing() -> None:
    """The name comes from the certificate, whatever the properties say that gRPC cuts at NUL."""
    peer = _peer(CA.client(), peer_spiffe_id=[ADMIN.encode()], x509_common_name=[ADMIN.encode()], peer_uri=[b""])

    assert _clients().identify(peer, NOW) == ALICE


@pytest.mark.parametrize(("version", "named"), [(b"TLSv1.3", True), (b"TLSv1.2", False)])
def test_only_tls_1_3_where_it_is_asked_for(version: bytes, named: bool) -> None:
    """The floor of the settings holds for each call, for gRPC's Python has no option for it."""
    clients = _clients(require_tls_1_3=True)
    peer = _peer(CA.client(), ssl_tls_version=[version])

    if named:
        assert clients.identify(peer, NOW) == ALICE
    else:
        with pytest.raises(CallerUnauthenticated):
            clients.identify(peer, NOW)


@pytest.mark.parametrize("case", [case for case in HOSTILE if case != "no-certificate"])
def test_what_tls_stops_is_refused_without_it_too(case: str) -> None:
    """Every row of the table, as if the handshake had let it through: identify alone refuses, twice."""
    client = HOSTILE[case].make(CA)
    assert client is not None
    clients = _clients()

    for _ in range(2):
        with pytest.raises(CallerUnauthenticated):
            clients.identify(_peer(client), NOW)


def test_a_chain_is_accepted_with_or_without_the_leaf_in_it() -> None:
    """The leaf is repeated by gRPC; through two intermediates, and with a stray certificate beside them."""
    between = Authority("between", issuer=Authority("above", issuer=CA))
    client = between.client()
    stray = Authority("stray").certificate
    alone = b"".join(one.public_bytes(Encoding.PEM) for one in client.chain)

    for peer in (
        _peer(client),
        _peer(client, x509_pem_cert_chain=[alone]),
        _peer(client.with_chain(stray, *client.chain)),
        _peer(client, x509_pem_cert_chain=[client.pem, alone]),
    ):
        assert _clients().identify(peer, NOW) == ALICE


@pytest.mark.parametrize("missing", ["basic constraints", "ca flag", "certificate of its own"])
def test_an_issuer_must_be_a_ca(missing: str) -> None:
    """A leaf signs for nobody, however it calls itself."""
    if missing == "ca flag":
        issuer = Authority("a leaf", issuer=CA, ca=False)
        client = issuer.client()
    elif missing == "basic constraints":
        leaf = CA.mint(Shape(subject="a leaf", without=[x509.BasicConstraints], san=uris(ADMIN)))
        client = _signed_by(leaf)
    else:
        client = _signed_by(CA.client(ADMIN))

    with pytest.raises(CallerUnauthenticated):
        _clients().identify(_peer(client), NOW)


def _signed_by(leaf: Identity) -> Identity:
    """A client that a leaf has signed for."""
    forger = Authority("forger")
    forger.key = leaf.key  # type: ignore[assignment] # elliptic, as every leaf's here
    forger.certificate = leaf.certificate
    return forger.client().with_chain(leaf.certificate)


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "p-521", "rsa-2048"])
def test_an_odd_key_is_named_or_refused_and_nothing_else(kind: str) -> None:
    """What the verifier does not know is a refusal, not an error of ours."""
    make: dict[str, Callable[[], Any]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    }
    peer = _peer(CA.mint(Shape(san=uris(ALICE), key=make[kind]())))

    try:
        named = _clients().identify(peer, NOW)
    except CallerUnauthenticated:
        named = None

    assert named in (ALICE, None)


def test_what_cannot_be_read_names_nobody() -> None:
    """A certificate of a version there is not, the client's own or one that it sends along."""
    client = CA.client()

    for field in ("x509_pem_cert", "x509_pem_cert_chain"):
        peer = _peer(client, **{field: [of_no_version(client)]})
        with pytest.raises(CallerUnauthenticated):
            _clients().identify(peer, NOW)


def test_validity_is_judged_at_every_call() -> None:
    """A name once found is found no more outside the certificate's time, before or after, to the second."""
    clients, end = _clients(), NOW.replace(microsecond=0) + DAY / 24
    client = CA.mint(Shape(san=uris(ALICE), valid_from=end - DAY, valid_to=end))
    peer = _peer(client)

    assert clients.identify(peer, end) == ALICE
    for moment in (end + SECOND / 2, end + SECOND, end - DAY - SECOND):
        with pytest.raises(CallerUnauthenticated):
            clients.identify(peer, moment)
    assert clients.identify(peer, end - DAY) == ALICE


@pytest.mark.parametrize("which", ["intermediate", "root"])
def test_an_issuers_end_is_its_clients_end(which: str) -> None:
    """Nobody vouches for a client any more once a CA above it has expired, though the client's name was known."""
    soon = NOW + DAY / 24
    root = Authority("root", valid_to=soon if which == "root" else None)
    between = Authority("between", issuer=root, valid_to=soon if which == "intermediate" else None)
    clients, peer = _clients(root), _peer(between.client())

    assert clients.identify(peer, NOW) == ALICE
    for judge in (clients, _clients(root)):
        with pytest.raises(CallerUnauthenticated):
            judge.identify(peer, soon + SECOND)


def test_a_renewed_ca_takes_over_from_the_old_one() -> None:
    """Both are in the file, with one name and one key: when the old one ends, those it vouched for are still known."""
    old = Authority("root", valid_to=NOW + DAY / 24)
    new = old.renewed()
    clients, peer = _clients(old, new), _peer(old.client())

    assert clients.identify(peer, NOW) == ALICE
    assert clients.identify(peer, NOW + DAY / 12) == ALICE


def test_what_is_remembered_of_a_client_is_small() -> None:
    """A client may send other certificates along with its own, new ones each time: they are not kept."""
    clients, client = _clients(), CA.client()
    junk = tuple(Authority(f"junk {number}").certificate for number in range(20))

    for number in range(len(junk)):
        assert clients.identify(_peer(client.with_chain(*junk[number:], *junk[:number])), NOW) == ALICE

    assert max(map(len, clients._known)) <= 64


def test_another_ca_is_another_set_of_clients() -> None:
    """What one set of CAs has vouched for says nothing for another set."""
    old, new = Authority("same name"), Authority("same name")
    client = old.client()

    assert _clients(old, new).identify(_peer(client), NOW) == ALICE
    with pytest.raises(CallerUnauthenticated):
        _clients(new).identify(_peer(client), NOW)
