"""What is wrapped here, openssl opens; what does not fit is refused before anything is encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyimport import MaterialUnsuitable, WrappingAlgorithm, WrappingKeyRejected, WrappingKeySpec, check_material, wrap
from tests.client import openssl

if TYPE_CHECKING:
    from pathlib import Path

ALGORITHMS = ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"]
SPECS = ["RSA_2048", "RSA_3072", "RSA_4096"]
SYMMETRIC = ["AES_256", "HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512"]
ELLIPTIC = ["ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1"]
RSA = ["RSA_2048", "RSA_3072", "RSA_4096"]


def _fits(kind: str, algorithm: str, spec: str) -> bool:
    """What AWS's table of key material and wrapping algorithms says."""
    if algorithm.startswith("RSA_AES_KEY_WRAP"):
        return True
    return kind not in RSA and (kind, spec) != ("ECC_NIST_P521", "RSA_2048")


CASES = [(kind, algorithm, spec) for kind in SYMMETRIC + ELLIPTIC + RSA for algorithm in ALGORITHMS for spec in SPECS]


@pytest.mark.parametrize(("kind", "algorithm", "spec"), [case for case in CASES if _fits(*case)])
def test_openssl_opens_what_was_wrapped(
    kind: str,
    algorithm: str,
    spec: str,
    materials: dict[str, bytes],
    private_keys: dict[WrappingKeySpec.ValueType, Path],
) -> None:
    """Every kind of key material survives every algorithm and spec that can carry it."""
    private_key = private_keys[WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{spec}")]
    public_key = private_key.with_suffix(".der").read_bytes()

    wrapped = wrap(materials[kind], public_key=public_key, algorithm=algorithm, spec=spec)

    assert openssl.unwrap(wrapped, private_key=private_key, algorithm=algorithm) == materials[kind]


@pytest.mark.parametrize(("kind", "algorithm", "spec"), [case for case in CASES if not _fits(*case)])
def test_material_that_does_not_fit_is_refused(
    kind: str,
    algorithm: str,
    spec: str,
    materials: dict[str, bytes],
    public_keys: dict[WrappingKeySpec.ValueType, bytes],
) -> None:
    """RSA private keys in RSAES_OAEP, and P-521 in it under RSA_2048, are refused with their size."""
    public_key = public_keys[WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{spec}")]

    with pytest.raises(MaterialUnsuitable, match=f"^{len(materials[kind])} bytes .* {algorithm} under {spec}, "):
        wrap(materials[kind], public_key=public_key, algorithm=algorithm, spec=spec)


def test_refusal_names_capacity_and_what_would_fit(
    materials: dict[str, bytes], public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """Whoever is refused P-521 under RSA_2048 is told what to ask for instead."""
    public_key = public_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048]

    with pytest.raises(MaterialUnsuitable) as refused:
        wrap(materials["ECC_NIST_P521"], public_key=public_key, algorithm="RSAES_OAEP_SHA_256")

    assert refused.value.message == (
        "241 bytes of key material do not fit RSAES_OAEP_SHA_256 under RSA_2048, which holds at most 190 bytes; "
        "RSA_3072 holds 318, RSA_4096 holds 446, RSA_AES_KEY_WRAP holds an RSA or ECC private key of any size"
    )


@pytest.mark.parametrize(
    ("algorithm", "capacities"),
    [
        ("RSAES_OAEP_SHA_1", [214, 342, 470]),
        ("RSAES_OAEP_SHA_256", [190, 318, 446]),
        ("RSA_AES_KEY_WRAP_SHA_1", [5880, 5752, 5624]),
        ("RSA_AES_KEY_WRAP_SHA_256", [5880, 5752, 5624]),
    ],
)
def test_capacity_is_exact(
    algorithm: str, capacities: list[int], public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """The last byte that fits is wrapped into no more than KMS takes, and one more is refused."""
    for public_key, capacity in zip(public_keys.values(), capacities, strict=True):
        wrapped = wrap(bytes(capacity), public_key=public_key, algorithm=algorithm)

        assert len(wrapped) <= 6144
        with pytest.raises(MaterialUnsuitable, match=f"holds at most {capacity} bytes"):
            wrap(bytes(capacity + 1), public_key=public_key, algorithm=algorithm)


@pytest.mark.parametrize(
    ("algorithm", "sentence"),
    [
        (WrappingAlgorithm.Value("WRAPPING_ALGORITHM_RSAES_PKCS1_V1_5"), "deprecated, and KMS has refused it since"),
        (WrappingAlgorithm.WRAPPING_ALGORITHM_SM2PKE, "this library does not offer it"),
        (WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED, "this library does not know it"),
        (WrappingAlgorithm.ValueType(99), "not wrapped with 99: this library does not know it"),
    ],
)
def test_other_algorithms_are_refused(
    algorithm: WrappingAlgorithm.ValueType, sentence: str, public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """What this library does not wrap with is refused in words, not with a wrong ciphertext."""
    public_key = public_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096]

    with pytest.raises(MaterialUnsuitable, match=sentence):
        wrap(bytes(32), public_key=public_key, algorithm=algorithm)


def test_a_name_that_is_none_is_refused(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """A misspelt algorithm is an error of its own."""
    public_key = public_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_4096]

    with pytest.raises(ValueError, match="RSA_OAEP"):
        wrap(bytes(32), public_key=public_key, algorithm="RSA_OAEP")


@pytest.mark.parametrize(
    ("material", "sentence"),
    [(b"", "empty"), (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PEM text")],
)
def test_what_is_no_material_is_refused(material: bytes, sentence: str) -> None:
    """An empty file and a PEM file are recognised before any algorithm is chosen."""
    with pytest.raises(MaterialUnsuitable, match=sentence):
        check_material(material)


def test_material_is_measured_against_the_widest_key_while_the_spec_is_open() -> None:
    """Before the spec is known only what no spec could hold is refused."""
    check_material(bytes(446), algorithm="RSAES_OAEP_SHA_256")

    with pytest.raises(MaterialUnsuitable, match="under an RSA key, which holds at most 446 bytes"):
        check_material(bytes(447), algorithm="RSAES_OAEP_SHA_256")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_material_never_wraps_alike(
    algorithm: str, public_keys: dict[WrappingKeySpec.ValueType, bytes]
) -> None:
    """OAEP's seed and the AES key between are fresh each time."""
    public_key = public_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048]

    first, second = (wrap(bytes(32), public_key=public_key, algorithm=algorithm) for _ in range(2))

    assert first[:256] != second[:256]
    assert first[256:] != second[256:] or not first[256:]


def test_wrapping_checks_the_public_key(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """A key of another spec than the set's is not wrapped under."""
    public_key = public_keys[WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048]

    with pytest.raises(WrappingKeyRejected, match="2048 bits, which is not RSA_4096"):
        wrap(bytes(32), public_key=public_key, algorithm="RSAES_OAEP_SHA_256", spec="RSA_4096")


def test_errors_do_not_show_the_material(public_keys: dict[WrappingKeySpec.ValueType, bytes]) -> None:
    """A refusal tells the size of the material and nothing of its content."""
    material = b"canary" * 100

    with pytest.raises(MaterialUnsuitable) as refused:
        wrap(material, public_key=next(iter(public_keys.values())), algorithm="RSAES_OAEP_SHA_256")

    assert "canary" not in repr(refused.value) + str(refused.value)
    assert isinstance(refused.value, ValueError)
