"""What may be done at all: whose keys, by whom, wrapped how. Pure: it decides on values and asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keybroker import errors
from keybroker.model import RSA_BITS, Wrapping, WrappingAlgorithm, WrappingChoice, WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keybroker.grants import Grant
    from keybroker.model import Caller, Home, KeyArn, KeyFacts, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmRule:
    """What is known of a wrapping algorithm.

    Attributes:
        rank: the higher, the rather it is chosen where the caller leaves the choice.
        deprecated: refused unless the settings name it.
        key_specs: the wrapping keys it is used with.
        carries: prefixes of the specs of the keys whose material it can wrap.
        in_china: whether China Regions offer it.
        elsewhere: whether all others do.
    """

    rank: int
    deprecated: bool
    key_specs: tuple[WrappingKeySpec, ...]
    carries: tuple[str, ...]
    in_china: bool
    elsewhere: bool


_RSA = (WrappingKeySpec.RSA_4096, WrappingKeySpec.RSA_3072, WrappingKeySpec.RSA_2048)
_OAEP_CARRIES = ("SYMMETRIC_DEFAULT", "HMAC_", "ECC_", "SM2")
_AES_WRAP_CARRIES = ("RSA_", "ECC_")

# https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
# SHA-1 is deprecated here for NIST SP 800-131A Rev. 2 does not admit it for new uses of digital security services.
_RULES: Mapping[WrappingAlgorithm, AlgorithmRule] = {
    WrappingAlgorithm.RSAES_OAEP_SHA_256: AlgorithmRule(
        rank=5, deprecated=False, key_specs=_RSA, carries=_OAEP_CARRIES, in_china=True, elsewhere=True
    ),
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_256: AlgorithmRule(
        rank=4, deprecated=False, key_specs=_RSA, carries=_AES_WRAP_CARRIES, in_china=False, elsewhere=True
    ),
    WrappingAlgorithm.SM2PKE: AlgorithmRule(
        rank=3,
        deprecated=False,
        key_specs=(WrappingKeySpec.SM2,),
        carries=("RSA_", "SM2"),
        in_china=True,
        elsewhere=False,
    ),
    WrappingAlgorithm.RSAES_OAEP_SHA_1: AlgorithmRule(
        rank=2, deprecated=True, key_specs=_RSA, carries=_OAEP_CARRIES, in_china=True, elsewhere=True
    ),
    WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1: AlgorithmRule(
        rank=1, deprecated=True, key_specs=_RSA, carries=_AES_WRAP_CARRIES, in_china=False, elsewhere=True
    ),
    # KMS ended support on 2023-10-10 (same page); no setting brings it back.
    WrappingAlgorithm.RSAES_PKCS1_V1_5: AlgorithmRule(
        rank=0, deprecated=True, key_specs=_RSA, carries=(), in_china=False, elsewhere=False
    ),
}

# A P-521 key's PKCS #8 is 241 bytes; RSA_2048 with OAEP carries 190 (SHA-256) or 214 (SHA-1).
_TOO_LARGE = {
    ("ECC_NIST_P521", algorithm, WrappingKeySpec.RSA_2048)
    for algorithm in (WrappingAlgorithm.RSAES_OAEP_SHA_256, WrappingAlgorithm.RSAES_OAEP_SHA_1)
}

# "You can't import key material for ML-DSA KMS keys": importing-keys.html in the same guide.
_NOT_IMPORTABLE = ("ML_DSA_",)
_KNOWN_KEY_SPECS = ("SYMMETRIC_DEFAULT", "HMAC_", "ECC_NIST_P", "ECC_SECG_", "RSA_", "SM2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings' rules.

    Attributes:
        algorithms: the wrapping algorithms allowed.
        key_specs: the wrapping key specs allowed.
        grants: what callers may do; what none allows is denied.
        version: of the settings it comes from.
    """

    algorithms: frozenset[WrappingAlgorithm]
    key_specs: frozenset[WrappingKeySpec]
    grants: tuple[Grant, ...]
    version: str

    def require_own(self, key: KeyArn, home: Home) -> None:
        """Refuses a key of another partition, Region or account.

        Raises:
            RegionNotServed, ForeignAccount
        """
        if key.partition != home.partition or key.region not in home.regions:
            raise errors.RegionNotServed(regions=" ".join(home.regions), partition=home.partition)
        if key.account != home.account:
            raise errors.ForeignAccount

    def require_granted(self, caller: Caller, operation: Operation, key: KeyArn) -> None:
        """Refuses what the caller may not do to the key.

        Raises:
            CallerNotAuthorized
        """
        if not any(grant.allows(caller, operation, key) for grant in self.grants):
            raise errors.CallerNotAuthorized(detail=f"{caller.name} may not {operation} {key}")

    def require_allowed(self, choice: WrappingChoice, partition: str) -> None:
        """Refuses what no key could be wrapped with here.

        Raises:
            WrappingAlgorithmDeprecated, WrappingAlgorithmNotAllowed, WrappingKeySpecNotAllowed, WrappingUnsuitable
        """
        pairs = list(self._pairs(partition))
        algorithms = {pair.algorithm for pair in pairs}
        if choice.algorithm and choice.algorithm not in algorithms:
            refuse = (
                errors.WrappingAlgorithmDeprecated
                if _RULES[choice.algorithm].deprecated and choice.algorithm not in self.algorithms
                else errors.WrappingAlgorithmNotAllowed
            )
            raise refuse(allowed=" ".join(sorted(algorithms)))
        key_specs = {pair.key_spec for pair in pairs}
        if choice.key_spec and choice.key_spec not in key_specs:
            raise errors.WrappingKeySpecNotAllowed(allowed=" ".join(sorted(key_specs)))
        if not any(_matches(pair, choice) for pair in pairs):
            raise errors.WrappingUnsuitable(suitable=_listed(pairs))

    def choose(self, choice: WrappingChoice, key: KeyArn, facts: KeyFacts | None) -> Wrapping:
        """The strongest allowed wrapping that meets the choice and can carry this key's material.

        Args:
            choice: what the caller asked for, already allowed.
            key: the key.
            facts: what is known of the key; None if the broker may not describe it. An unknown key is taken for a
                symmetric one where the caller leaves the choice, and not judged where the caller makes it.

        Raises:
            WrappingUnsuitable: nothing allowed does; metadata `suitable` lists what could.
        """
        pairs = list(self._pairs(key.partition))
        if facts:
            pairs = [pair for pair in pairs if _can_carry(pair, facts.key_spec)]
        fitting = [pair for pair in pairs if _matches(pair, choice)]
        if not fitting:
            raise errors.WrappingUnsuitable(suitable=_listed(pairs))
        return max(fitting, key=_strength)

    def _pairs(self, partition: str) -> Iterator[Wrapping]:
        in_china = partition == "aws-cn"
        for algorithm in self.algorithms:
            rule = _RULES[algorithm]
            if rule.in_china if in_china else rule.elsewhere:
                for key_spec in rule.key_specs:
                    if key_spec in self.key_specs:
                        yield Wrapping(algorithm=algorithm, key_spec=key_spec)


def _can_carry(pair: Wrapping, key_spec: str) -> bool:
    if key_spec.startswith(_NOT_IMPORTABLE) or (key_spec, pair.algorithm, pair.key_spec) in _TOO_LARGE:
        return False
    # KMS gains key specs faster than this table: an unknown one is left to KMS to judge.
    return not key_spec.startswith(_KNOWN_KEY_SPECS) or key_spec.startswith(_RULES[pair.algorithm].carries)


def _matches(pair: Wrapping, choice: WrappingChoice) -> bool:
    return choice.algorithm in (None, pair.algorithm) and choice.key_spec in (None, pair.key_spec)


def _strength(pair: Wrapping) -> tuple[bool, int, int]:
    rule = _RULES[pair.algorithm]
    return not rule.deprecated, RSA_BITS.get(pair.key_spec, 0), rule.rank


def _listed(pairs: list[Wrapping]) -> str:
    return " ".join(str(pair) for pair in sorted(pairs, key=_strength, reverse=True))
