"""A sealed entry opens to the very set that was sealed for that very slot, or not at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import traceback
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st

from keybroker.model import KeyArn, ParameterSet, SecretBytes, Slot, Wrapping, WrappingAlgorithm, WrappingKeySpec
from keybroker.seal import ENTRY_LIMIT, Seal, SealError, new_key, read_key
from keybroker.wrapping_key import require_wrapping_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEW, OLD, ATTACKERS = (hashlib.sha256(name).digest() for name in (b"new", b"old", b"attacker's"))
SEAL = Seal([NEW, OLD])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
VALID_TO = datetime(2026, 11, 3, 12, 30, 15, 123000, tzinfo=UTC)
VALID_TO_MS = 1793709015123

# Where each field of an entry begins: version, key id, expiry, nonce, ciphertext; the tag is the last 16 bytes.
HEADER, NONCE = 17, 29
BORDERS = (0, 1, 9, HEADER, NONCE, -16, None)


def _rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


PUBLIC_KEY = _rsa_key()
TOKEN = SecretBytes(hashlib.shake_256(b"token").digest(1024))


def _slot(
    *,
    number: int = 1,
    partition: str = "aws",
    region: str = "us-east-1",
    account: str = "111122223333",
    algorithm: WrappingAlgorithm = WrappingAlgorithm.RSAES_OAEP_SHA_256,
    key_spec: WrappingKeySpec = WrappingKeySpec.RSA_2048,
) -> Slot:
    key_id = f"{number:08x}-12ab-34cd-56ef-1234567890ab"
    return Slot(
        key=KeyArn(partition=partition, region=region, account=account, key_id=key_id),
        wrapping=Wrapping(algorithm=algorithm, key_spec=key_spec),
    )


SLOT = _slot()


def _set(slot: Slot = SLOT, valid_to: datetime = VALID_TO, public_key: bytes = PUBLIC_KEY) -> ParameterSet:
    return ParameterSet(
        slot=slot,
        public_key=public_key,
        import_token=TOKEN,
        valid_to=valid_to,
        aws_request_id="d2c0a2f4-0d3f-4e0e-a1a3-9b1f5c6d7e8f",
    )


def _opens(seal: Seal, slot: Slot, entry: bytes) -> bool:
    """Whether it opens; anything but a set or a SealError fails the test."""
    try:
        seal.open(slot, entry)
    except SealError:
        return False
    return True


def _joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _by_hand(key: bytes, slot: Slot, content: bytes, expiry: int = VALID_TO_MS, version: int = 1) -> bytes:
    """An entry made from the description of the format, not with the code under test."""
    extracted = hmac.digest(bytes(32), key, "sha256")  # HKDF, RFC 5869, of one block
    cipher_key = hmac.digest(extracted, b"keybroker seal 1: entry\x01", "sha256")
    key_id = hmac.digest(extracted, b"keybroker seal 1: key id\x01", "sha256")[:8]
    names = (slot.key.partition, slot.key.account, slot.key.region, str(slot.key))
    wrapping = (slot.wrapping.algorithm.value, slot.wrapping.key_spec.value)
    named = (name.encode() for name in names + wrapping)
    bound = _joined(bytes([version]), key_id, *named, expiry.to_bytes(8))
    nonce = os.urandom(12)
    sealed = AESGCM(cipher_key).encrypt(nonce, content, bound)
    return bytes([version]) + key_id + expiry.to_bytes(8) + nonce + sealed


def _content(parameters: ParameterSet) -> bytes:
    return _joined(parameters.public_key, bytes(parameters.import_token), parameters.aws_request_id.encode())


# Round trip and format


def test_what_was_sealed_opens() -> None:
    """Every field comes back, and the token still hides from print."""
    opened = SEAL.open(SLOT, SEAL.seal(_set()))

    assert opened == _set()
    assert isinstance(opened.import_token, SecretBytes)
    assert opened.valid_to.tzinfo is UTC


@given(
    public_key=st.binary(max_size=600),
    token=st.binary(max_size=6144),
    request_id=st.text(max_size=100),
    valid_to=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 -- Hypothesis wants it naive
)
def test_any_set_opens_again(public_key: bytes, token: bytes, request_id: str, valid_to: datetime) -> None:
    """Whatever a set holds comes back, its expiry cut to milliseconds: never later than KMS's."""
    parameters = ParameterSet(
        slot=SLOT,
        public_key=public_key,
        import_token=SecretBytes(token),
        valid_to=valid_to,
        aws_request_id=request_id,
    )

    opened = SEAL.open(SLOT, SEAL.seal(parameters))

    assert replace(opened, valid_to=valid_to) == parameters
    assert opened.valid_to == valid_to.replace(microsecond=valid_to.microsecond // 1000 * 1000)


def test_an_expiry_in_another_zone_is_the_same_moment() -> None:
    """The entry holds a moment, not a wall clock's reading."""
    elsewhere = VALID_TO.astimezone(datetime.strptime("+0530", "%z").tzinfo)

    opened = SEAL.open(SLOT, SEAL.seal(_set(valid_to=elsewhere)))

    assert (opened.valid_to, opened.valid_to.tzinfo) == (VALID_TO, UTC)


def test_the_format_is_the_one_described() -> None:
    """Entries of another version of the broker open; a change of the format shows here, and needs a new version."""
    opened = SEAL.open(SLOT, _by_hand(NEW, SLOT, _content(_set())))
    entry = SEAL.seal(_set())

    assert opened == _set()
    assert entry[:HEADER] == _by_hand(NEW, SLOT, b"")[:HEADER]
    assert len(entry) == NONCE + len(_content(_set())) + 16


def test_no_two_entries_are_alike() -> None:
    """The nonce is fresh each time: under one twice, AES-GCM gives its secrets away."""
    entries = [SEAL.seal(_set()) for _ in range(1000)]

    assert len({entry[HEADER:NONCE] for entry in entries}) == 1000
    assert len({entry[NONCE:] for entry in entries}) == 1000


def test_an_entry_shows_nothing_of_what_it_holds() -> None:
    """Who reads the store learns an expiry and a seal key's id: no ARN, account, public key, token or request id."""
    entry = SEAL.seal(_set())

    hidden = (
        SLOT.key.account.encode(),
        SLOT.key.key_id.encode(),
        b"arn:",
        b"RSA_2048",
        b"OAEP",
        _set().aws_request_id.encode(),
    )
    assert not [text for text in hidden if text in entry]
    for secret in (PUBLIC_KEY, TOKEN, NEW):
        assert not [at for at in range(len(secret) - 7) if secret[at : at + 8] in entry]


# Bounds


def test_the_largest_set_of_kms_is_sealed() -> None:
    """RSA_4096 and the longest token leave more than half of the bound unused."""
    largest = replace(_set(public_key=bytes(550)), import_token=SecretBytes(6144))

    entry = SEAL.seal(largest)

    assert len(entry) < ENTRY_LIMIT // 2
    assert SEAL.open(SLOT, entry) == largest


def test_an_entry_has_at_most_16_kib() -> None:
    """One byte more is neither sealed nor opened, be it sealed with our own key."""
    fits = _set(public_key=bytes(ENTRY_LIMIT - len(SEAL.seal(_set(public_key=b"")))))
    over = replace(fits, public_key=fits.public_key + b"\0")

    assert len(SEAL.seal(fits)) == ENTRY_LIMIT == 16384
    assert SEAL.open(SLOT, SEAL.seal(fits)) == fits
    with pytest.raises(SealError, match="too long"):
        SEAL.seal(over)
    with pytest.raises(SealError, match="length"):
        SEAL.open(SLOT, _by_hand(NEW, SLOT, _content(over)))


UNSEALABLE = {
    "an expiry before 1970": replace(_set(), valid_to=EPOCH - timedelta(milliseconds=1)),
    "a request id that is no text": replace(_set(), aws_request_id="\udcff"),
}


@pytest.mark.parametrize("parameters", UNSEALABLE.values(), ids=UNSEALABLE)
def test_what_no_entry_can_hold_is_refused(parameters: ParameterSet) -> None:
    """A set as KMS never gives is a SealError, not a crash: the set itself is still good."""
    with pytest.raises(SealError, match="cannot be sealed"):
        SEAL.seal(parameters)


NO_SET = {
    "nothing": b"",
    "one part": _joined(PUBLIC_KEY),
    "two parts": _joined(PUBLIC_KEY, TOKEN),
    "four parts": _joined(PUBLIC_KEY, TOKEN, b"id", b""),
    "a trailing byte": _content(_set()) + b"\0",
    "four trailing bytes": _content(_set()) + bytes(4),
    "the last byte missing": _content(_set())[:-1],
    "a length beyond the end": _joined(PUBLIC_KEY, TOKEN) + b"\xff\xff\xff\xff",
    "a request id that is not UTF-8": _joined(PUBLIC_KEY, TOKEN, b"\xff"),
    "zeros": bytes(13),
    "JSON": json.dumps({"public_key": PUBLIC_KEY.hex()}).encode(),
}


@pytest.mark.parametrize("content", NO_SET.values(), ids=NO_SET)
def test_what_is_sealed_but_no_set_does_not_open(content: bytes) -> None:
    """Even under our own key the content must be exactly a set."""
    with pytest.raises(SealError):
        SEAL.open(SLOT, _by_hand(NEW, SLOT, content))


@pytest.mark.parametrize("expiry", [2**63, 2**64 - 1, 253402300800000])
def test_an_expiry_after_the_year_9999_does_not_open(expiry: int) -> None:
    """What Python's calendar cannot hold is refused like everything else."""
    with pytest.raises(SealError):
        SEAL.open(SLOT, _by_hand(NEW, SLOT, _content(_set()), expiry=expiry))


def test_another_version_does_not_open() -> None:
    """An entry of a later format, sealed with our own key, is not misread."""
    with pytest.raises(SealError, match="version"):
        SEAL.open(SLOT, _by_hand(NEW, SLOT, _content(_set()), version=2))


# Rotation


def test_keys_are_rotated_without_a_miss() -> None:
    """The old key opens while it is listed, in any place; the first seals; a dropped key opens nothing."""
    before, added, rotated, after = Seal([OLD]), Seal([OLD, NEW]), Seal([NEW, OLD]), Seal([NEW])
    old, new = before.seal(_set()), rotated.seal(_set())

    assert [_opens(seal, SLOT, old) for seal in (before, added, rotated, after)] == [True, True, True, False]
    assert [_opens(seal, SLOT, new) for seal in (before, added, rotated, after)] == [False, True, True, True]
    assert added.seal(_set())[:9] == old[:9]
    assert rotated.seal(_set())[:9] == after.seal(_set())[:9] != old[:9]


def test_a_key_listed_twice_is_one_key() -> None:
    """Harmless, so not refused."""
    assert _opens(Seal([NEW, NEW]), SLOT, SEAL.seal(_set()))


@pytest.mark.parametrize("keys", [[], [b""], [NEW[:31]], [NEW + b"\0"], [NEW, OLD[:16]]])
def test_seal_keys_have_32_bytes(keys: list[bytes]) -> None:
    """There is at least one key, and each is a whole one."""
    with pytest.raises(SealError, match="seal key"):
        Seal(keys)


# Attacks

SLOTS = [
    _slot(number=number, partition=partition, region=region, account=account, algorithm=algorithm, key_spec=key_spec)
    for number in (1, 2)
    for partition in ("aws", "aws-cn")
    for region in ("us-east-1", "eu-west-1")
    for account in ("111122223333", "444455556666")
    for algorithm in WrappingAlgorithm
    for key_spec in (WrappingKeySpec.RSA_2048, WrappingKeySpec.RSA_4096)
]

Attack = tuple[Slot, bytes]


def _altered() -> Iterator[Attack]:
    """One bit or byte of an entry is another, missing or too many."""
    entry = SEAL.seal(_set())
    whole = int.from_bytes(entry)
    for bit in range(8 * len(entry)):
        yield SLOT, (whole ^ 1 << bit).to_bytes(len(entry))
    for at in range(len(entry)):
        yield SLOT, entry[:at] + entry[at + 1 :]
        yield SLOT, entry[:at] + b"\0" + entry[at:]
        if any(entry[at:]):
            yield SLOT, entry[:at] + bytes(len(entry) - at)


def _truncated() -> Iterator[Attack]:
    """An entry is cut off at either end, or goes on after its end."""
    entry = SEAL.seal(_set())
    for at in range(len(entry)):
        yield SLOT, entry[:at]
        yield SLOT, entry[at + 1 :]
        yield SLOT, entry + entry[: at + 1]
        yield SLOT, entry + bytes(at + 1)


def _replayed() -> Iterator[Attack]:
    """A good entry stands under another slot's name."""
    entries = {slot: SEAL.seal(_set(slot)) for slot in SLOTS}
    for under, sealed_for in itertools.permutations(SLOTS, 2):
        yield under, entries[sealed_for]


def _swapped() -> Iterator[Attack]:
    """Fields of two good entries are combined, in every way but the two good ones."""
    first = SEAL.seal(_set())
    others = {
        "another set": (SLOT, SEAL.seal(_set(public_key=_rsa_key()))),
        "a later expiry": (SLOT, SEAL.seal(_set(valid_to=VALID_TO + timedelta(hours=24)))),
        "an earlier expiry": (SLOT, SEAL.seal(_set(valid_to=VALID_TO - timedelta(milliseconds=1)))),
        "another seal key": (SLOT, Seal([OLD]).seal(_set())),
        "an attacker's seal key": (SLOT, Seal([ATTACKERS]).seal(_set())),
        **{str(slot): (slot, SEAL.seal(_set(slot))) for slot in SLOTS if slot != SLOT},
    }
    for slot, second in others.values():
        halves = [(first[start:end], second[start:end]) for start, end in itertools.pairwise(BORDERS)]
        mixtures = {b"".join(fields) for fields in itertools.product(*halves)} - {first, second}
        for under in {SLOT, slot}:
            for mixture in mixtures:
                yield under, mixture


def _extended() -> Iterator[Attack]:
    """The expiry in the open part is moved."""
    entry = SEAL.seal(_set())
    expiries = [0, 1, 2**63, 2**64 - 1, *(VALID_TO_MS + sign * 10**n for n in range(13) for sign in (-1, 1))]
    for expiry in expiries:
        yield SLOT, entry[:9] + expiry.to_bytes(8) + entry[HEADER:]


def _forged() -> Iterator[Attack]:
    """An attacker's own good RSA key, in every dress that can be had without a seal key."""
    public_key = _rsa_key()
    require_wrapping_key(public_key, SLOT.wrapping.key_spec)  # the check behind the seal would not stop it
    for slot in SLOTS:
        forged = _set(slot, public_key=public_key)
        content = _content(forged)
        honest, own = SEAL.seal(_set(slot)), Seal([ATTACKERS]).seal(forged)
        yield slot, own
        yield slot, honest[:9] + own[9:]  # our key id
        yield slot, honest[:HEADER] + own[HEADER:]
        yield slot, honest[:NONCE] + own[NONCE:]
        yield slot, content  # not sealed at all
        yield slot, honest[:NONCE] + content
        yield slot, honest[:NONCE] + content + bytes(16)
        yield slot, honest[:NONCE] + content + honest[-16:]
        yield slot, json.dumps({"version": 1, "public_key": base64.b64encode(public_key).decode()}).encode()
        for key in (
            bytes(32),
            b"\xff" * 32,
            honest[:9].ljust(32, b"\0"),
            hashlib.sha256(str(slot.key).encode()).digest(),
        ):
            guessed = _by_hand(key, slot, content)
            yield slot, guessed
            yield slot, honest[:9] + guessed[9:]
        # The public key is XORed into the ciphertext: the key stream is known to who knows the honest key.
        stream = bytes(a ^ b for a, b in zip(honest[NONCE:-16], _content(_set(slot)), strict=True))
        yield slot, honest[:NONCE] + bytes(a ^ b for a, b in zip(stream, content, strict=True)) + honest[-16:]


def _random() -> Iterator[Attack]:
    """Noise of every length, bare and under a good beginning."""
    honest = SEAL.seal(_set())
    for number in range(1000):
        noise = hashlib.shake_256(number.to_bytes(4)).digest(number * 17)
        yield SLOT, noise
        yield SLOT, honest[:HEADER] + noise
        yield SLOT, honest[:NONCE] + noise


ATTACKS: dict[str, Callable[[], Iterator[Attack]]] = {
    "altered": _altered,
    "truncated": _truncated,
    "replayed": _replayed,
    "swapped": _swapped,
    "extended": _extended,
    "forged": _forged,
    "random": _random,
}


def test_no_hostile_entry_opens() -> None:
    """Whoever can write the store cannot make an entry that opens: of more than 10,000 tries, none."""
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()

    for kind, attacks in ATTACKS.items():
        for slot, entry in attacks():
            tried[kind] += 1
            accepted[kind] += _opens(SEAL, slot, entry)

    print(f"\n{tried.total():,} hostile entries, {accepted.total()} accepted: {dict(tried)}")
    assert accepted.total() == 0, dict(accepted)
    assert min(tried.values()) >= 30
    assert tried.total() >= 10_000
    assert all(_opens(SEAL, slot, SEAL.seal(_set(slot))) for slot in SLOTS)  # honest entries do


# Names that run into one another


def _cut(text: str, cuts: list[int], wrapping: Wrapping) -> Slot:
    """A slot whose key's parts, put together, are the text."""
    partition, region, account, key_id = (
        text[start:end] for start, end in itertools.pairwise([0, *sorted(cuts), len(text)])
    )
    return Slot(
        key=KeyArn(partition=partition, region=region, account=account, key_id=key_id),
        wrapping=wrapping,
    )


WRAPPINGS = st.builds(
    Wrapping, algorithm=st.sampled_from(list(WrappingAlgorithm)), key_spec=st.sampled_from(list(WrappingKeySpec))
)


@st.composite
def _alike(draw: st.DrawFn) -> tuple[Slot, Slot]:
    """Two slots whose names are the same characters, or nearly, divided differently."""
    text = draw(st.text(alphabet="ak:/|\0\x01é", max_size=12))
    cuts = st.lists(st.integers(0, len(text)), min_size=3, max_size=3)
    wrapping = draw(WRAPPINGS)
    first = _cut(text, draw(cuts), wrapping)
    return first, _cut(text, draw(cuts), draw(st.one_of(st.just(wrapping), WRAPPINGS)))


@given(slots=_alike())
def test_two_slots_never_share_associated_data(slots: tuple[Slot, Slot]) -> None:
    """However names are divided, an entry opens for its own slot alone: lengths stand before them."""
    sealed_for, other = slots
    assume(sealed_for != other)
    entry = SEAL.seal(_set(sealed_for))

    assert _opens(SEAL, sealed_for, entry)
    assert not _opens(SEAL, other, entry)


# A key's parts, and those of another key: the first five make the same ARN, and so would any joining without lengths.
COLLISIONS = {
    "a colon in the partition": (("a:kms:b", "c", "d", "e"), ("a", "b:kms:c", "d", "e")),
    "a colon in the Region": (("a", "b:c", "d", "e"), ("a", "b", "c:d", "e")),
    "a slash in the account": (("a", "b", "c:key/d", "e"), ("a", "b", "c", "d:key/e")),
    "an ARN's middle in the partition": (("a:kms:r:1:key/x", "r", "1", "y"), ("a", "r", "1", "x:kms:r:1:key/y")),
    "an ARN's end in the Region": (("a", "b:1:key/c", "1", "d"), ("a", "b", "1", "c:1:key/d")),
    "characters that move": (("ab", "c", "d", "e"), ("a", "bc", "d", "e")),
    "an empty part": (("", "a", "b", "c"), ("a", "", "b", "c")),
    "a bar": (("a|b", "c", "d", "e"), ("a", "b|c", "d", "e")),
    "a length": (("\0\0\0\x01a", "b", "c", "d"), ("", "a\0\0\0\x01b", "c", "d")),
}


@pytest.mark.parametrize(("first", "second"), COLLISIONS.values(), ids=COLLISIONS)
def test_names_that_read_alike_are_told_apart(
    first: tuple[str, str, str, str], second: tuple[str, str, str, str]
) -> None:
    """The known ways in which joined names collide are none here."""
    one, other = (
        Slot(key=KeyArn(partition=p, region=r, account=a, key_id=k), wrapping=SLOT.wrapping)
        for p, r, a, k in (first, second)
    )

    assert not _opens(SEAL, other, SEAL.seal(_set(one)))
    assert not _opens(SEAL, one, SEAL.seal(_set(other)))


def test_a_part_of_the_content_cannot_run_into_the_next() -> None:
    """Two sets that are the same bytes divided differently stay two sets."""
    first = replace(_set(), public_key=b"ab", import_token=SecretBytes(b"c"))
    second = replace(_set(), public_key=b"a", import_token=SecretBytes(b"bc"))

    assert SEAL.open(SLOT, SEAL.seal(first)) == first
    assert SEAL.open(SLOT, SEAL.seal(second)) == second


# Silence

FAILURES: dict[str, Callable[[], object]] = {
    "altered": lambda: SEAL.open(SLOT, SEAL.seal(_set())[:-1] + b"\0\0"),
    "of another slot": lambda: SEAL.open(_slot(number=2), SEAL.seal(_set())),
    "under a key we do not have": lambda: Seal([OLD]).open(SLOT, Seal([NEW]).seal(_set())),
    "not sealed": lambda: SEAL.open(SLOT, _content(_set())),
    "too short": lambda: SEAL.open(SLOT, b""),
    "too long": lambda: SEAL.open(SLOT, SEAL.seal(_set()) * 20),
    "no set": lambda: SEAL.open(SLOT, _by_hand(NEW, SLOT, _content(_set()) + b"\xff")),
    "no text": lambda: SEAL.open(SLOT, _by_hand(NEW, SLOT, _joined(PUBLIC_KEY, TOKEN, b"\xff" + TOKEN))),
    "too long to seal": lambda: SEAL.seal(_set(public_key=PUBLIC_KEY * 100)),
    "not to be sealed": lambda: SEAL.seal(replace(_set(), valid_to=EPOCH - timedelta(days=1))),
    "a short key": lambda: Seal([NEW[:31]]),
    "a key without its prefix": lambda: read_key(base64.urlsafe_b64encode(NEW).decode()),
    "a key of another prefix": lambda: read_key("keybroker-seal-2:" + base64.urlsafe_b64encode(NEW).decode()),
    "a key padded": lambda: read_key("keybroker-seal-1:" + base64.urlsafe_b64encode(NEW).decode()),
    "a key and more": lambda: read_key("keybroker-seal-1:" + base64.urlsafe_b64encode(NEW + OLD).decode()[:-2]),
}


def _renderings(secret: bytes) -> set[str]:
    """Pieces of the secret as a log might show them."""
    piece = secret[:12]
    return {piece.hex(), base64.b64encode(piece).decode(), base64.urlsafe_b64encode(piece).decode(), repr(piece)[2:-1]}


@pytest.mark.parametrize("attempt", FAILURES.values(), ids=FAILURES)
def test_a_failure_tells_no_secret(attempt: Callable[[], object]) -> None:
    """A SealError, its cause and its traceback go to the log; neither key, token nor public key does."""
    with pytest.raises(SealError) as caught:
        attempt()

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.args)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in (NEW, OLD, TOKEN, PUBLIC_KEY):
        assert not [text for text in _renderings(secret) if text in shown]


def test_an_opened_set_and_a_seal_hide_their_secrets() -> None:
    """What may end in a log by its repr shows a length at most."""
    shown = repr(SEAL.open(SLOT, SEAL.seal(_set()))) + repr(SEAL) + repr(read_key(new_key()))

    assert "<1024 secret bytes>" in shown
    assert "<32 secret bytes>" in shown
    assert not [text for secret in (NEW, OLD, TOKEN) for text in _renderings(secret) if text in shown]


# Key files


def test_a_new_key_is_read_back() -> None:
    """One recognisable line, 32 random bytes, with or without the line's end; no two are the same."""
    lines = {new_key() for _ in range(100)}

    assert len({read_key(line) for line in lines}) == 100
    for line in lines:
        assert line.startswith("keybroker-seal-1:")
        assert line.splitlines() == [line]
        assert read_key(line) == read_key(f"{line}\n") == read_key(f"  {line}\r\n\n")
        assert base64.urlsafe_b64decode(line.removeprefix("keybroker-seal-1:") + "=") == read_key(line)
        assert _opens(Seal([read_key(line)]), SLOT, Seal([read_key(line)]).seal(_set()))


LINE = "keybroker-seal-1:" + "A" * 43

NO_KEY = {
    "an empty file": ("", "is empty"),
    "white space": (" \n\t\r\n", "is empty"),
    "no prefix": ("A" * 43, "does not begin with keybroker-seal-1:"),
    "another prefix": (LINE.replace("1:", "2:"), "does not begin with keybroker-seal-1:"),
    "the prefix in upper case": (LINE.upper(), "does not begin with keybroker-seal-1:"),
    "a byte order mark": (f"\ufeff{LINE}", "does not begin with keybroker-seal-1:"),
    "PEM": ("-----BEGIN PRIVATE KEY-----", "does not begin with keybroker-seal-1:"),
    "the prefix alone": (LINE[:-43], "has 0 characters .*, not 43"),
    "31 bytes": (LINE[:-1], "has 42 characters .*, not 43"),
    "33 bytes": (f"{LINE}A", "has 44 characters .*, not 43"),
    "padding": (f"{LINE}=", "is not base64url"),
    "a blank within": (f"{LINE[:-1]} A", "is not base64url"),
    "a plus sign": (f"{LINE[:-1]}+", "is not base64url"),
    "a slash": (f"{LINE[:-1]}/", "is not base64url"),
    "a NUL": (f"{LINE[:-1]}\0", "is not base64url"),
    "a letter with an accent": (f"{LINE[:-1]}é", "is not base64url"),
    "a full-width letter": (f"{LINE[:-1]}\uff21", "is not base64url"),
    "two keys": (f"{LINE}\n{LINE}\n", "more than one line"),
    "a comment": (f"# ours\n{LINE}\n", "more than one line"),
}


@pytest.mark.parametrize(("text", "why"), NO_KEY.values(), ids=NO_KEY)
def test_what_is_no_key_file_is_refused(text: str, why: str) -> None:
    """The operator learns what is wrong with the file, in a sentence without what is in it."""
    with pytest.raises(SealError, match=why) as caught:
        read_key(text)

    assert "AAAA" not in str(caught.value)
