"""Key material wrapped as KMS unwraps it, under parameter sets that have been looked at first."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keyimport.errors import MaterialUnsuitable, WrappingKeyRejected
from keyimport.v1.key_import_pb2 import WrappingAlgorithm, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyimport.v1.key_import_pb2 import (
        GetParametersForImportRequest,
        GetParametersForImportResponse,
        ParametersSource,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """One wrapping algorithm: the hash of OAEP and of its MGF1, and whether an AES key stands between."""

    hash: hashes.HashAlgorithm
    aes_key_wrap: bool


# https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
_RECIPES: Final = {
    WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_1: _Recipe(
        hash=hashes.SHA1(),  # noqa: S303 -- KMS offers it; OAEP needs no collision resistance
        aes_key_wrap=False,
    ),
    WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_OAEP_SHA_256: _Recipe(hash=hashes.SHA256(), aes_key_wrap=False),
    WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_1: _Recipe(
        hash=hashes.SHA1(),  # noqa: S303 -- as above
        aes_key_wrap=True,
    ),
    WrappingAlgorithm.WRAPPING_ALGORITHM_RSA_AES_KEY_WRAP_SHA_256: _Recipe(hash=hashes.SHA256(), aes_key_wrap=True),
}
_REFUSALS: Final = {
    WrappingAlgorithm.WRAPPING_ALGORITHM_RSAES_PKCS1_V1_5: "it is deprecated, and KMS has refused it since 2023-10-10",
    WrappingAlgorithm.WRAPPING_ALGORITHM_SM2PKE: "this library does not offer it",
}
_MODULUS_BYTES: Final = {
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048: 256,
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_3072: 384,
    WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096: 512,
}
_PUBLIC_EXPONENT: Final = 65537
_AES_KEY_BYTES: Final = 32
# The most that KMS takes as EncryptedKeyMaterial.
_WRAPPED_BYTES: Final = 6144


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Parameters:
    """A parameter set that has been checked. Its public key and import token belong together.

    Attributes:
        key_arn: the key's ARN.
        public_key: the wrapping public key, DER SubjectPublicKeyInfo.
        import_token: opaque; goes with the key material wrapped under `public_key`.
        parameters_valid_to: when KMS stops accepting the token, in UTC.
        wrapping_algorithm: what to wrap with.
        wrapping_key_spec: the kind and size of `public_key`.
        public_key_sha256: SHA-256 of `public_key`, 32 bytes.
        source: where the broker had the set from.
    """

    key_arn: str
    public_key: bytes
    import_token: bytes
    parameters_valid_to: datetime
    wrapping_algorithm: WrappingAlgorithm.ValueType
    wrapping_key_spec: WrappingKeySpec.ValueType
    public_key_sha256: bytes
    source: ParametersSource.ValueType

    @property
    def fingerprint(self) -> str:
        """`public_key_sha256` as the broker's audit log shows it, in hexadecimal."""
        return self.public_key_sha256.hex()

    def wrap(self, material: bytes) -> bytes:
        """Wrap key material for import with this set; MaterialUnsuitable if it does not fit."""
        return wrap(
            material, public_key=self.public_key, algorithm=self.wrapping_algorithm, spec=self.wrapping_key_spec
        )

    def __repr__(self) -> str:
        return (
            f"Parameters(key_arn={self.key_arn!r}, "
            f"wrapping_algorithm={algorithm_name(self.wrapping_algorithm)}, "
            f"wrapping_key_spec={spec_name(self.wrapping_key_spec)}, fingerprint={self.fingerprint!r}, "
            f"parameters_valid_to={self.parameters_valid_to.isoformat()}, "
            f"import_token=<{len(self.import_token)} bytes>)"
        )


def wrap(
    material: bytes,
    *,
    public_key: bytes,
    algorithm: WrappingAlgorithm.ValueType | str,
    spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
) -> bytes:
    """Wrap key material for import.

    Args:
        material: AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER.
        public_key: the wrapping public key as DER SubjectPublicKeyInfo.
        algorithm: the parameter set's algorithm, as enum value or name.
        spec: the parameter set's spec, as enum value or name; unspecified admits an RSA key of any of the three sizes.

    Returns:
        For RSAES_OAEP the one RSA block; for RSA_AES_KEY_WRAP the RSA block with a fresh AES-256 key in it, and then
        the material wrapped under that key with padding (RFC 5649).

    Raises:
        MaterialUnsuitable: the material does not fit, or this library does not wrap with the algorithm.
        WrappingKeyRejected: the public key is not what `check_public_key` lets pass.
    """
    rsa_key = check_public_key(public_key, spec)
    number = algorithm_number(algorithm)
    check_material(material, algorithm=number, spec=_spec_of(rsa_key))
    recipe = _recipe(number)
    oaep = padding.OAEP(mgf=padding.MGF1(recipe.hash), algorithm=recipe.hash, label=None)
    if not recipe.aes_key_wrap:
        return rsa_key.encrypt(material, oaep)
    aes_key = secrets.token_bytes(_AES_KEY_BYTES)
    return rsa_key.encrypt(aes_key, oaep) + keywrap.aes_key_wrap_with_padding(aes_key, material)


def check_public_key(
    der: bytes, spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED
) -> rsa.RSAPublicKey:
    """Parse a wrapping public key, or refuse it.

    Args:
        der: the whole of a canonical DER SubjectPublicKeyInfo.
        spec: the spec it must be of, as enum value or name; unspecified admits the three RSA specs.

    Raises:
        WrappingKeyRejected: it is anything but an RSA key of that size, with the exponent 65537 and an odd modulus.
    """
    number = spec_number(spec)
    if number != WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED and number not in _MODULUS_BYTES:
        raise WrappingKeyRejected(f"this library does not wrap under a key of spec {spec_name(number)}")
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise WrappingKeyRejected("the public key is no DER SubjectPublicKeyInfo") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise WrappingKeyRejected("the public key is not an RSA key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise WrappingKeyRejected("the public key is not encoded canonically")
    actual = _spec_of(key)
    if actual not in _MODULUS_BYTES or number not in (WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED, actual):
        wanted = "no wrapping key spec" if actual not in _MODULUS_BYTES else f"not {spec_name(number)}"
        raise WrappingKeyRejected(f"the public key is an RSA key of {key.key_size} bits, which is {wanted}")
    numbers = key.public_numbers()
    # The loader lets these two pass. Under either of them the wrapped material would be open to whoever sent the key.
    if numbers.e != _PUBLIC_EXPONENT:
        raise WrappingKeyRejected(f"the public key's exponent is not {_PUBLIC_EXPONENT}")
    if numbers.n % 2 == 0:
        raise WrappingKeyRejected("the public key's modulus is even, so it is no RSA modulus")
    return key


def check_material(
    material: bytes,
    *,
    algorithm: WrappingAlgorithm.ValueType | str = WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
    spec: WrappingKeySpec.ValueType | str = WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
) -> None:
    """Refuse what can be seen to be unfit before a parameter set is spent on it.

    Args:
        material: the key material in plain text.
        algorithm: the wrapping algorithm, as enum value or name; unspecified where it is not known yet.
        spec: the wrapping key spec, as enum value or name; unspecified where it is not known yet.

    Raises:
        MaterialUnsuitable: it is empty, or PEM, or does not fit, or this library does not wrap with the algorithm.
    """
    if not material:
        raise MaterialUnsuitable("the key material is empty")
    if material.startswith(b"-----BEGIN"):
        raise MaterialUnsuitable("the key material is PEM text; KMS takes a private key as PKCS#8 DER")
    number, size = algorithm_number(algorithm), spec_number(spec)
    if number == WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED:
        return
    recipe = _recipe(number)
    room = {name: _capacity(recipe, modulus) for name, modulus in _MODULUS_BYTES.items()}
    limit = room.get(size, max(room.values()))
    if len(material) <= limit:
        return
    under = spec_name(size) if size in room else "an RSA key"
    raise MaterialUnsuitable(
        f"{len(material)} bytes of key material do not fit {algorithm_name(number)} under {under}, "
        f"which holds at most {limit} bytes; {_remedy(len(material), recipe, room)}"
    )


def checked(answer: GetParametersForImportResponse, asked: GetParametersForImportRequest) -> Parameters:
    """The broker's answer as a parameter set; WrappingKeyRejected if it contradicts itself or the request."""
    for objection in _objections(answer, asked):
        raise WrappingKeyRejected(f"the broker's answer is refused: {objection}")
    check_public_key(answer.public_key, answer.wrapping_key_spec)
    return Parameters(
        key_arn=answer.key_arn,
        public_key=answer.public_key,
        import_token=answer.import_token,
        parameters_valid_to=answer.parameters_valid_to.ToDatetime(tzinfo=UTC),
        wrapping_algorithm=answer.wrapping_algorithm,
        wrapping_key_spec=answer.wrapping_key_spec,
        public_key_sha256=answer.public_key_sha256,
        source=answer.source,
    )


def names_key(key_arn: str, key_id: str) -> bool:
    """Whether the ARN is the asked one or, if a bare key id was asked for, ends in that."""
    return key_arn == key_id or (not key_id.startswith("arn:") and key_arn.endswith(f":key/{key_id}"))


def _objections(answer: GetParametersForImportResponse, asked: GetParametersForImportRequest) -> Iterator[str]:
    if not names_key(answer.key_arn, asked.key_id):
        yield f"it is for {answer.key_arn!r}, not for {asked.key_id!r}"
    if asked.wrapping_algorithm not in (WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED, answer.wrapping_algorithm):
        yield f"{algorithm_name(answer.wrapping_algorithm)} is not the wrapping algorithm asked for"
    if asked.wrapping_key_spec not in (WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED, answer.wrapping_key_spec):
        yield f"{spec_name(answer.wrapping_key_spec)} is not the wrapping key spec asked for"
    if answer.wrapping_algorithm not in _RECIPES:
        yield f"this library does not wrap with {algorithm_name(answer.wrapping_algorithm)}"
    if answer.wrapping_key_spec not in _MODULUS_BYTES:
        yield f"this library does not wrap under a key of spec {spec_name(answer.wrapping_key_spec)}"
    if hashlib.sha256(answer.public_key).digest() != answer.public_key_sha256:
        yield "the public key has another SHA-256"
    if not answer.import_token:
        yield "the import token is empty"
    if problem := _expiry_problem(answer):
        yield problem


def _expiry_problem(answer: GetParametersForImportResponse) -> str:
    try:
        valid_to = answer.parameters_valid_to.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return "its expiry is no date"
    return "" if valid_to > datetime.now(UTC) else f"it expired at {valid_to.isoformat()}"


def algorithm_number(algorithm: WrappingAlgorithm.ValueType | str) -> WrappingAlgorithm.ValueType:
    """The value of a name, with or without its enum's prefix; ValueError if there is none. A value stays as it is."""
    if isinstance(algorithm, str):
        return WrappingAlgorithm.Value("WRAPPING_ALGORITHM_" + algorithm.removeprefix("WRAPPING_ALGORITHM_"))
    return algorithm


def spec_number(spec: WrappingKeySpec.ValueType | str) -> WrappingKeySpec.ValueType:
    """The value of a name, with or without its enum's prefix; ValueError if there is none. A value stays as it is."""
    if isinstance(spec, str):
        return WrappingKeySpec.Value("WRAPPING_KEY_SPEC_" + spec.removeprefix("WRAPPING_KEY_SPEC_"))
    return spec


def algorithm_name(number: WrappingAlgorithm.ValueType) -> str:
    """The word KMS uses, or the number where it is newer than this library."""
    if number in WrappingAlgorithm.values():
        return WrappingAlgorithm.Name(number).removeprefix("WRAPPING_ALGORITHM_")
    return str(number)


def spec_name(number: WrappingKeySpec.ValueType) -> str:
    """The word KMS uses, or the number where it is newer than this library."""
    if number in WrappingKeySpec.values():
        return WrappingKeySpec.Name(number).removeprefix("WRAPPING_KEY_SPEC_")
    return str(number)


def _recipe(number: WrappingAlgorithm.ValueType) -> _Recipe:
    recipe = _RECIPES.get(number)
    if recipe is None:
        why = _REFUSALS.get(number, "this library does not know it")
        raise MaterialUnsuitable(f"key material is not wrapped with {algorithm_name(number)}: {why}")
    return recipe


def _spec_of(key: rsa.RSAPublicKey) -> WrappingKeySpec.ValueType:
    sizes = {modulus * 8: spec for spec, modulus in _MODULUS_BYTES.items()}
    return sizes.get(key.key_size, WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED)


def _capacity(recipe: _Recipe, modulus: int) -> int:
    """The most bytes of key material; RFC 8017 section 7.1.1, and RFC 5649: eights, and eight more."""
    if recipe.aes_key_wrap:
        return (_WRAPPED_BYTES - modulus) // 8 * 8 - 8
    return modulus - 2 * recipe.hash.digest_size - 2


def _remedy(size: int, recipe: _Recipe, room: dict[WrappingKeySpec.ValueType, int]) -> str:
    if recipe.aes_key_wrap:
        return f"KMS takes at most {_WRAPPED_BYTES} bytes of wrapped key material"
    wider = [f"{spec_name(spec)} holds {limit}" for spec, limit in room.items() if size <= limit]
    wider.append("RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size")
    return ", ".join(wider)
