"""A wrapping public key is exactly what was asked for, or refused: KMS does not sign it."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keybroker.model import RSA_BITS, WrappingKeySpec
from keybroker.wrapping_key import require_wrapping_key

RSA_2048 = WrappingKeySpec.RSA_2048
SM2 = WrappingKeySpec.SM2
E = 65537

RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d010101")
RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")
NULL = b"\x05\x00"


@pytest.fixture(scope="session")
def moduli() -> dict[WrappingKeySpec, int]:
    """One honest modulus of each size."""
    return {
        spec: rsa.generate_private_key(public_exponent=E, key_size=bits).public_key().public_numbers().n
        for spec, bits in RSA_BITS.items()
    }


def element(tag: int, content: bytes) -> bytes:
    """A DER element."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """A DER INTEGER, not negative."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def key(n: int, e: int = E) -> bytes:
    """An RSAPublicKey."""
    return element(0x30, integer(n) + integer(e))


def spki(public_key: bytes, algorithm: bytes = RSA_ENCRYPTION + NULL) -> bytes:
    """A SubjectPublicKeyInfo."""
    return element(0x30, element(0x30, algorithm) + element(0x03, b"\x00" + public_key))


def long_form(der: bytes) -> bytes:
    """The same element, its algorithm's length needlessly in the long form."""
    body = der[4:]
    return element(0x30, b"\x30\x81" + body[1:2] + body[2:])


@pytest.mark.parametrize("spec", RSA_BITS)
def test_an_honest_rsa_key_is_accepted(spec: WrappingKeySpec, moduli: dict[WrappingKeySpec, int]) -> None:
    """What KMS hands out for each RSA spec passes."""
    require_wrapping_key(spki(key(moduli[spec])), spec)


@pytest.mark.parametrize(
    ("given", "asked"), [(given, asked) for given in RSA_BITS for asked in WrappingKeySpec if given is not asked]
)
def test_an_rsa_key_of_another_spec_is_refused(
    given: WrappingKeySpec, asked: WrappingKeySpec, moduli: dict[WrappingKeySpec, int]
) -> None:
    """A smaller key would be a downgrade, and a larger one is no answer to what was asked."""
    der = spki(key(moduli[given]))

    with pytest.raises(ValueError, match="bits, not|not SM2"):
        require_wrapping_key(der, asked)


WEAK: dict[str, tuple[Callable[[int], bytes], str]] = {
    "exponent 3": (lambda n: spki(key(n, 3)), "exponent is not 65537"),
    "exponent 65539": (lambda n: spki(key(n, 65539)), "exponent is not 65537"),
    "even modulus": (lambda n: spki(key(n - 1)), "small factor"),
    "modulus divisible by 3": (lambda n: spki(key(n - n % 6 + 3)), "small factor"),
    "modulus divisible by 997": (lambda n: spki(key(n - n % 1994 + 997)), "small factor"),
    "1024 bits": (lambda n: spki(key(n >> 1024 | 1)), "1024 bits, not 2048"),
    "2047 bits": (lambda n: spki(key(n >> 1 | 1)), "2047 bits, not 2048"),
    "2049 bits": (lambda n: spki(key(n << 1 | 1)), "2049 bits, not 2048"),
}

MISSHAPEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "zeros": lambda der: bytes(len(der)),
    "a trailing byte": lambda der: spki(der) + b"\x00",
    "a trailing byte in the bit string": lambda der: spki(der + b"\x00"),
    "the last byte missing": lambda der: spki(der)[:-1],
    "half of it": lambda der: spki(der)[: len(der) // 2],
    "PEM": lambda der: b"-----BEGIN PUBLIC KEY-----\n" + spki(der).hex().encode(),
    "an RSAPublicKey without its wrapper": lambda der: der,
    "no NULL": lambda der: spki(der, RSA_ENCRYPTION),
    "for PSS": lambda der: spki(der, RSASSA_PSS),
    "a length in the long form": lambda der: long_form(spki(der)),
    "indefinite length": lambda der: b"\x30\x80" + spki(der)[4:] + b"\x00\x00",
    "a modulus with leading zeros": lambda der: spki(element(0x30, element(0x02, b"\x00" + der[8:265]) + der[265:])),
    "a negative modulus": lambda der: spki(element(0x30, element(0x02, der[9:265]) + der[265:])),
}


@pytest.mark.parametrize(("made", "why"), WEAK.values(), ids=WEAK)
def test_a_weak_rsa_key_is_refused(made: Callable[[int], bytes], why: str, moduli: dict[WrappingKeySpec, int]) -> None:
    """A key that is well formed but not of the spec is refused, and the log learns why."""
    der = made(moduli[RSA_2048])

    with pytest.raises(ValueError, match=why):
        require_wrapping_key(der, RSA_2048)


@pytest.mark.parametrize("made", MISSHAPEN.values(), ids=MISSHAPEN)
def test_what_is_not_canonical_der_is_refused(
    made: Callable[[bytes], bytes], moduli: dict[WrappingKeySpec, int]
) -> None:
    """One key has one encoding, and so one fingerprint; anything else is refused with a plain ValueError."""
    der = made(key(moduli[RSA_2048]))

    with pytest.raises(ValueError, match="the public key is"):
        require_wrapping_key(der, RSA_2048)


def test_the_refusal_never_holds_the_key(moduli: dict[WrappingKeySpec, int]) -> None:
    """The message goes into a log line; the key does not."""
    n = moduli[RSA_2048]

    with pytest.raises(ValueError, match="bits") as caught:
        require_wrapping_key(spki(key(n)), WrappingKeySpec.RSA_4096)

    assert str(n) not in str(caught.value)
    assert f"{n:x}" not in str(caught.value)


@pytest.mark.parametrize("spec", WrappingKeySpec)
def test_another_kind_of_key_is_refused(spec: WrappingKeySpec) -> None:
    """Keys on other curves are neither RSA nor SM2."""
    encoded = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    others = [
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*encoded),
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*encoded),
    ]

    for der in others:
        with pytest.raises(ValueError, match="not RSA|not SM2"):
            require_wrapping_key(der, spec)


# The curve of GB/T 32918.5, y^2 = x^3 - 3x + B modulo P. P is 3 modulo 4, so a power is a square root.
P = 2**256 - 2**224 - 2**96 + 2**64 - 1
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
GENERATOR = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)
SM2_ALGORITHM = bytes.fromhex("06072a8648ce3d0201" + "06082a811ccf5501822d")
P256_ALGORITHM = bytes.fromhex("06072a8648ce3d0201" + "06082a8648ce3d030107")


def square(x: int) -> int:
    """The square of y where the curve passes x."""
    return (x**3 - 3 * x + B) % P


def point(start: int) -> tuple[int, int]:
    """The first point from x = start on."""
    x = next(x for x in range(start, start + 100) if pow(square(x), (P - 1) // 2, P) == 1)
    return x, pow(square(x), (P + 1) // 4, P)


def sm2(x: int, y: int, algorithm: bytes = SM2_ALGORITHM) -> bytes:
    """A SubjectPublicKeyInfo of an uncompressed point."""
    return spki(b"\x04" + x.to_bytes(32) + y.to_bytes(32), algorithm)


X, Y = point(2)

NO_SM2: dict[str, tuple[bytes, str]] = {
    "y off by one": (sm2(X, Y + 1), "not on the curve"),
    "x off by one": (sm2(X + 1, Y), "not on the curve"),
    "coordinates exchanged": (sm2(GENERATOR[1], GENERATOR[0]), "not on the curve"),
    "zero": (sm2(0, 0), "not on the curve"),
    "x above the prime": (sm2(X + P, Y), "not on the curve"),
    "all ones": (sm2(2**256 - 1, 2**256 - 1), "not on the curve"),
    "compressed": (spki(b"\x02" + X.to_bytes(32), SM2_ALGORITHM), "not SM2"),
    "infinity": (spki(b"\x00", SM2_ALGORITHM), "not SM2"),
    "another curve's name": (sm2(X, Y, P256_ALGORITHM), "not SM2"),
    "a trailing byte": (sm2(X, Y) + b"\x00", "not SM2"),
    "the last byte missing": (sm2(X, Y)[:-1], "not SM2"),
    "empty": (b"", "not SM2"),
}


@pytest.mark.parametrize("place", [GENERATOR, point(2), point(2**200), (X, P - Y)])
def test_a_point_of_the_sm2_curve_is_accepted(place: tuple[int, int]) -> None:
    """The standard's generator and other points of the curve pass."""
    require_wrapping_key(sm2(*place), SM2)


@pytest.mark.parametrize(("der", "why"), NO_SM2.values(), ids=NO_SM2)
def test_what_is_no_sm2_key_is_refused(der: bytes, why: str) -> None:
    """Only an uncompressed point of the SM2 curve, its coordinates below the prime, is an SM2 key."""
    with pytest.raises(ValueError, match=why):
        require_wrapping_key(der, SM2)


@pytest.mark.parametrize("spec", RSA_BITS)
def test_an_sm2_key_is_no_rsa_key(spec: WrappingKeySpec) -> None:
    """An SM2 key in an RSA key's place is refused, whether or not the loader knows the curve."""
    with pytest.raises(ValueError, match="the public key is"):
        require_wrapping_key(sm2(*GENERATOR), spec)
