"""What may be wrapped how, and whose keys are whose."""

from __future__ import annotations

import itertools

import pytest

from keybroker import errors
from keybroker.ciphertext import require_plausible_ciphertext
from keybroker.grants import NamePattern, grants_of
from keybroker.model import (
    Caller,
    Home,
    KeyArn,
    KeyFacts,
    Operation,
    Wrapping,
    WrappingAlgorithm,
    WrappingChoice,
    WrappingKeySpec,
)
from keybroker.policy import Policy
from tests.fake_kms import HOME, key_arn

CHINA = Home(partition="aws-cn", account="111122223333", regions=("cn-north-1",))
RSA = (WrappingKeySpec.RSA_2048, WrappingKeySpec.RSA_3072, WrappingKeySpec.RSA_4096)
OAEP, OAEP_1 = WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSAES_OAEP_SHA_1
AES_WRAP, AES_WRAP_1 = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256, WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1
SM2PKE = WrappingAlgorithm.SM2PKE

# From AWS's page on wrapping keys, and written here a second time on purpose.
CARRIES = {
    "SYMMETRIC_DEFAULT": {OAEP, OAEP_1},
    "HMAC_256": {OAEP, OAEP_1},
    "RSA_2048": {AES_WRAP, AES_WRAP_1},
    "RSA_4096": {AES_WRAP, AES_WRAP_1},
    "ECC_NIST_P256": {OAEP, OAEP_1, AES_WRAP, AES_WRAP_1},
    "ECC_NIST_P521": {OAEP, OAEP_1, AES_WRAP, AES_WRAP_1},
    "ECC_SECG_P256K1": {OAEP, OAEP_1, AES_WRAP, AES_WRAP_1},
    "ML_DSA_65": set(),
}


def _policy(
    algorithms: tuple[WrappingAlgorithm, ...] = (OAEP, AES_WRAP), key_specs: tuple[WrappingKeySpec, ...] = RSA
) -> Policy:
    return Policy(algorithms=frozenset(algorithms), key_specs=frozenset(key_specs), grants=(), version="test")


ALL = _policy(tuple(set(WrappingAlgorithm) - {WrappingAlgorithm.RSAES_PKCS1_V1_5}), tuple(WrappingKeySpec))


def _china_key() -> KeyArn:
    return KeyArn.parse("12345678-12ab-34cd-56ef-1234567890ab", CHINA)


@pytest.mark.parametrize("key_spec", CARRIES)
def test_each_kind_of_key_is_wrapped_by_what_aws_lists(key_spec: str) -> None:
    """Every algorithm and spec, with everything allowed: chosen where AWS lists it, refused where not."""
    for algorithm, wrapping_spec in itertools.product((OAEP, OAEP_1, AES_WRAP, AES_WRAP_1), RSA):
        choice = WrappingChoice(algorithm=algorithm, key_spec=wrapping_spec)
        facts = KeyFacts(external=True, key_spec=key_spec)
        too_large = (
            key_spec == "ECC_NIST_P521" and algorithm in (OAEP, OAEP_1) and wrapping_spec is WrappingKeySpec.RSA_2048
        )

        try:
            chosen: Wrapping | None = ALL.choose(choice, key_arn(), facts)
        except errors.WrappingUnsuitable:
            chosen = None

        fits = algorithm in CARRIES[key_spec] and not too_large
        assert chosen == (Wrapping(algorithm=algorithm, key_spec=wrapping_spec) if fits else None)


# The same page once more, with China Regions: what each kind of key takes, the strongest first.
OAEP_PAIRS = ("RSAES_OAEP_SHA_256/RSA_{}", "RSAES_OAEP_SHA_1/RSA_{}")
AES_PAIRS = ("RSA_AES_KEY_WRAP_SHA_256/RSA_{}", "RSA_AES_KEY_WRAP_SHA_1/RSA_{}")


def _by_strength(sha_256: tuple[str, ...], sm2: tuple[str, ...], sha_1: tuple[str, ...]) -> list[str]:
    sizes = (4096, 3072, 2048)
    return [
        *(pair.format(size) for size in sizes for pair in sha_256),
        *sm2,
        *(pair.format(size) for size in sizes for pair in sha_1),
    ]


SM2_PAIR = ("SM2PKE/SM2",)
OAEP_ONLY = _by_strength(OAEP_PAIRS[:1], (), OAEP_PAIRS[1:])
AES_ONLY = _by_strength(AES_PAIRS[:1], (), AES_PAIRS[1:])
EITHER = _by_strength((OAEP_PAIRS[0], AES_PAIRS[0]), (), (OAEP_PAIRS[1], AES_PAIRS[1]))
OAEP_OR_SM2 = _by_strength(OAEP_PAIRS[:1], SM2_PAIR, OAEP_PAIRS[1:])
TOO_SMALL_FOR_P521 = {pair.format(2048) for pair in OAEP_PAIRS}

TAKES = {
    "aws": {
        "SYMMETRIC_DEFAULT": OAEP_ONLY,
        "HMAC_224": OAEP_ONLY,
        "RSA_2048": AES_ONLY,
        "ECC_NIST_P384": EITHER,
        "ECC_SECG_P256K1": EITHER,
        "ECC_NIST_P521": [pair for pair in EITHER if pair not in TOO_SMALL_FOR_P521],
        "ML_DSA_87": [],
        "ML_KEM_768": EITHER,
        "ECC_NIST_EDWARDS25519": EITHER,
    },
    "aws-cn": {
        "SYMMETRIC_DEFAULT": OAEP_ONLY,
        "HMAC_224": OAEP_ONLY,
        "RSA_2048": list(SM2_PAIR),
        "ECC_NIST_P384": OAEP_ONLY,
        "ECC_NIST_P521": [pair for pair in OAEP_ONLY if pair not in TOO_SMALL_FOR_P521],
        "SM2": OAEP_OR_SM2,
        "ML_DSA_87": [],
        "SOMETHING_NEW": OAEP_OR_SM2,
    },
}
TAKES["aws-us-gov"] = TAKES["aws"]


@pytest.mark.parametrize(
    ("partition", "key_spec"), [(partition, key_spec) for partition, kinds in TAKES.items() for key_spec in kinds]
)
def test_every_choice_gets_the_strongest_it_leaves_open(partition: str, key_spec: str) -> None:
    """All algorithms by all specs, each also left open: the first fitting pair of the table, or a refusal by name."""
    offered = {pair for pairs in TAKES[partition].values() for pair in pairs}
    key = KeyArn(partition=partition, region="xx-test-1", account="111122223333", key_id="k")
    algorithms = [None, *(set(WrappingAlgorithm) - {WrappingAlgorithm.RSAES_PKCS1_V1_5})]
    wrong = []

    for algorithm, spec in itertools.product(algorithms, [None, *WrappingKeySpec]):
        choice = WrappingChoice(algorithm=algorithm, key_spec=spec)
        fitting = [
            pair
            for pair in TAKES[partition][key_spec]
            if pair.startswith(f"{algorithm or ''}") and pair.endswith(f"{spec or ''}")
        ]
        if algorithm and not any(pair.startswith(f"{algorithm}/") for pair in offered):
            expected = "WRAPPING_ALGORITHM_NOT_ALLOWED"
        elif spec and not any(pair.endswith(f"/{spec}") for pair in offered):
            expected = "WRAPPING_KEY_SPEC_NOT_ALLOWED"
        else:
            expected = fitting[0] if fitting else "WRAPPING_UNSUITABLE"
        try:
            ALL.require_allowed(choice, partition)
            outcome = str(ALL.choose(choice, key, KeyFacts(external=True, key_spec=key_spec)))
        except errors.BrokerError as refusal:
            outcome = refusal.reason
        if outcome != expected:
            wrong.append((choice, outcome, expected))

    assert wrong == []


def test_refusals_list_what_would_do() -> None:
    """The metadata names the algorithms or specs allowed, or the pairs that suit the key, the strongest first."""
    told: list[dict[str, str]] = []
    for choice in (
        WrappingChoice(algorithm=OAEP_1),
        WrappingChoice(algorithm=SM2PKE),
        WrappingChoice(key_spec=WrappingKeySpec.SM2),
        WrappingChoice(algorithm=OAEP),
    ):
        with pytest.raises(errors.InvalidRequest) as caught:  # noqa: PT012 -- as the broker asks, one after the other
            _policy().require_allowed(choice, "aws")
            _policy().choose(choice, key_arn(), KeyFacts(external=True, key_spec="RSA_2048"))
        told.append(caught.value.metadata)

    assert told == [
        {"allowed": "RSAES_OAEP_SHA_256 RSA_AES_KEY_WRAP_SHA_256"},
        {"allowed": "RSAES_OAEP_SHA_256 RSA_AES_KEY_WRAP_SHA_256"},
        {"allowed": "RSA_2048 RSA_3072 RSA_4096"},
        {"suitable": " ".join(AES_PAIRS[0].format(size) for size in (4096, 3072, 2048))},
    ]


@pytest.mark.parametrize(
    ("key_spec", "policy", "strongest"),
    [
        ("SYMMETRIC_DEFAULT", ALL, "RSAES_OAEP_SHA_256/RSA_4096"),
        ("HMAC_512", ALL, "RSAES_OAEP_SHA_256/RSA_4096"),
        ("RSA_3072", ALL, "RSA_AES_KEY_WRAP_SHA_256/RSA_4096"),
        ("ECC_NIST_P384", ALL, "RSAES_OAEP_SHA_256/RSA_4096"),
        ("ECC_NIST_P521", _policy(key_specs=(WrappingKeySpec.RSA_2048,)), "RSA_AES_KEY_WRAP_SHA_256/RSA_2048"),
        ("SYMMETRIC_DEFAULT", _policy((OAEP_1,)), "RSAES_OAEP_SHA_1/RSA_4096"),
        ("SYMMETRIC_DEFAULT", _policy(key_specs=(WrappingKeySpec.RSA_3072,)), "RSAES_OAEP_SHA_256/RSA_3072"),
        ("SOMETHING_NEW", ALL, "RSAES_OAEP_SHA_256/RSA_4096"),
    ],
)
def test_unspecified_is_the_strongest_that_fits(key_spec: str, policy: Policy, strongest: str) -> None:
    """SHA-256 before SHA-1, then the larger wrapping key; a kind of key unknown to us is left to KMS."""
    facts = KeyFacts(external=True, key_spec=key_spec)

    assert str(policy.choose(WrappingChoice(), key_arn(), facts)) == strongest


def test_half_a_choice_is_completed() -> None:
    """Only the algorithm, or only the spec: the rest is the strongest that goes with it."""
    facts = KeyFacts(external=True, key_spec="ECC_NIST_P256")

    by_algorithm = ALL.choose(WrappingChoice(algorithm=AES_WRAP), key_arn(), facts)
    by_spec = ALL.choose(WrappingChoice(key_spec=WrappingKeySpec.RSA_2048), key_arn(), facts)

    assert str(by_algorithm) == "RSA_AES_KEY_WRAP_SHA_256/RSA_4096"
    assert str(by_spec) == "RSAES_OAEP_SHA_256/RSA_2048"


@pytest.mark.parametrize("policy", [_policy(), ALL, _policy((OAEP_1,))])
def test_pkcs1_v1_5_is_never_allowed(policy: Policy) -> None:
    """Whatever the settings name."""
    with pytest.raises(errors.WrappingAlgorithmDeprecated) as told:
        policy.require_allowed(WrappingChoice(algorithm=WrappingAlgorithm.RSAES_PKCS1_V1_5), "aws")

    assert "RSAES_PKCS1_V1_5" not in told.value.metadata["allowed"]


@pytest.mark.parametrize(
    ("policy", "choice", "partition", "refusal"),
    [
        (_policy(), WrappingChoice(algorithm=OAEP_1), "aws", errors.WrappingAlgorithmDeprecated),
        (_policy(), WrappingChoice(algorithm=AES_WRAP_1), "aws", errors.WrappingAlgorithmDeprecated),
        (ALL, WrappingChoice(algorithm=OAEP_1), "aws", None),
        (_policy((OAEP,)), WrappingChoice(algorithm=AES_WRAP), "aws", errors.WrappingAlgorithmNotAllowed),
        (_policy(), WrappingChoice(algorithm=SM2PKE), "aws", errors.WrappingAlgorithmNotAllowed),
        (ALL, WrappingChoice(algorithm=SM2PKE), "aws", errors.WrappingAlgorithmNotAllowed),
        (ALL, WrappingChoice(algorithm=SM2PKE), "aws-cn", None),
        (ALL, WrappingChoice(algorithm=AES_WRAP), "aws-cn", errors.WrappingAlgorithmNotAllowed),
        (ALL, WrappingChoice(algorithm=OAEP), "aws-cn", None),
        (ALL, WrappingChoice(key_spec=WrappingKeySpec.SM2), "aws", errors.WrappingKeySpecNotAllowed),
        (_policy(key_specs=RSA[1:]), WrappingChoice(key_spec=RSA[0]), "aws", errors.WrappingKeySpecNotAllowed),
        (ALL, WrappingChoice(algorithm=SM2PKE, key_spec=RSA[0]), "aws-cn", errors.WrappingUnsuitable),
        (ALL, WrappingChoice(algorithm=OAEP, key_spec=WrappingKeySpec.SM2), "aws-cn", errors.WrappingUnsuitable),
        (ALL, WrappingChoice(), "aws", None),
    ],
)
def test_choices_are_allowed_or_refused_by_name(
    policy: Policy, choice: WrappingChoice, partition: str, refusal: type[errors.BrokerError] | None
) -> None:
    """SHA-1 must be named, SM2 is China's, RSA_AES_KEY_WRAP is not."""
    if refusal is None:
        policy.require_allowed(choice, partition)
        return
    with pytest.raises(refusal):
        policy.require_allowed(choice, partition)


def test_china_wraps_private_keys_with_sm2() -> None:
    """RSA private keys go under SM2PKE there, symmetric keys under OAEP."""
    rsa = ALL.choose(WrappingChoice(), _china_key(), KeyFacts(external=True, key_spec="RSA_2048"))
    symmetric = ALL.choose(WrappingChoice(), _china_key(), KeyFacts(external=True, key_spec="SYMMETRIC_DEFAULT"))

    assert (str(rsa), str(symmetric)) == ("SM2PKE/SM2", "RSAES_OAEP_SHA_256/RSA_4096")


@pytest.mark.parametrize(
    ("arn", "refusal"),
    [
        (str(key_arn()), None),
        (str(key_arn(region="eu-west-1")), None),
        (str(key_arn()).replace("us-east-1", "us-west-2"), errors.RegionNotServed),
        (str(key_arn()).replace("arn:aws:", "arn:aws-cn:"), errors.RegionNotServed),
        (str(key_arn()).replace("111122223333", "444455556666"), errors.ForeignAccount),
    ],
)
def test_only_own_keys_of_served_regions(arn: str, refusal: type[errors.BrokerError] | None) -> None:
    """Another account's, Region's or partition's key is refused by its reason."""
    key = KeyArn.parse(arn, HOME)

    if refusal is None:
        _policy().require_own(key, HOME)
        return
    with pytest.raises(refusal):
        _policy().require_own(key, HOME)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("spiffe://corp/ns/*/sa/web", "spiffe://corp/ns/payments/sa/web", True),
        ("spiffe://corp/ns/*/sa/web", "spiffe://corp/ns/a/b/sa/web", False),
        ("spiffe://corp/ns/*", "spiffe://corp/ns/a/sa/web", False),
        ("spiffe://corp/ns/*", "spiffe://corp/ns/", False),
        ("spiffe://corp/ns/pay*", "spiffe://corp/ns/payments", True),
        ("spiffe://corp/ns/a", "spiffe://corp/ns/ab", False),
        ("spiffe://corp.example/x", "spiffe://corpXexample/x", False),
        ("*", "local", True),
        ("*", "spiffe://corp/ns", False),
        ("arn:aws:kms:*:111122223333:key/*", str(key_arn()), True),
        ("arn:aws:kms:us-east-1:*:key/mrk-*", str(key_arn()), False),
        ("local", "local\n", False),
    ],
)
def test_a_star_stays_in_its_place(pattern: str, name: str, matches: bool) -> None:
    """One place between / and :, never none, and the whole name."""
    assert NamePattern(pattern).matches(name) == matches


def test_what_no_grant_allows_is_denied() -> None:
    """Local callers may all but delete while no callers are named; else only what is named, discard and status."""
    local = grants_of((), local_callers={"local"})
    named = grants_of(
        [("ops", ("arn:aws:kms:us-east-1:*:key/*",), (Operation.GetParametersForImport,))], local_callers={"local"}
    )

    def allowed(grants: tuple[object, ...], name: str, operation: Operation) -> bool:
        caller = Caller(name=name, listener="unix:/x")
        return any(grant.allows(caller, operation, key_arn()) for grant in grants)  # type: ignore[attr-defined]

    assert {op for op in Operation if allowed(local, "local", op)} == set(Operation) - {
        Operation.DeleteImportedKeyMaterial
    }
    assert not any(allowed(local, "other", op) for op in Operation)
    assert {op for op in Operation if allowed(named, "ops", op)} == {
        Operation.GetParametersForImport,
        Operation.DiscardParameters,
        Operation.GetKeyImportStatus,
    }
    assert not any(allowed(named, "local", op) for op in Operation)


@pytest.mark.parametrize(
    ("wrapping", "length", "plausible"),
    [
        (None, 255, False),
        (None, 256, True),
        (Wrapping(algorithm=OAEP, key_spec=RSA[2]), 512, True),
        (Wrapping(algorithm=OAEP, key_spec=RSA[2]), 256, False),
        (Wrapping(algorithm=OAEP, key_spec=RSA[0]), 257, False),
        (Wrapping(algorithm=AES_WRAP, key_spec=RSA[0]), 256, False),
        (Wrapping(algorithm=AES_WRAP, key_spec=RSA[0]), 256 + 16, True),
        (Wrapping(algorithm=AES_WRAP, key_spec=RSA[0]), 256 + 17, False),
        (Wrapping(algorithm=SM2PKE, key_spec=WrappingKeySpec.SM2), 130, True),
    ],
)
def test_lengths_that_no_ciphertext_has_are_refused(wrapping: Wrapping | None, length: int, plausible: bool) -> None:
    """OAEP's is the modulus, RSA_AES_KEY_WRAP's is longer by whole blocks."""
    ciphertext = b"\xff" * length

    if plausible:
        require_plausible_ciphertext(ciphertext, wrapping)
        return
    with pytest.raises(errors.RequestMalformed) as told:
        require_plausible_ciphertext(ciphertext, wrapping)
    assert told.value.field == "encrypted_key_material"
