"""A key id is either one key of one account and Region, in its one spelling, or refused with the right reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keybroker import errors
from keybroker.model import Home, KeyArn
from keybroker.policy import Policy

HOME = Home(partition="aws", account="111122223333", regions=("us-east-1", "eu-west-1"))
POLICY = Policy(algorithms=frozenset(), key_specs=frozenset(), grants=(), version="test")

UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/{UUID}"
MRK_ARN = f"arn:aws:kms:us-east-1:111122223333:key/{MRK}"

MALFORMED = {
    "empty": "",
    "a space": " ",
    "leading space": f" {UUID}",
    "trailing space": f"{UUID} ",
    "trailing newline": f"{UUID}\n",
    "trailing carriage return": f"{UUID}\r",
    "leading tab": f"\t{UUID}",
    "no-break space": f"{UUID}\u00a0",
    "zero-width space": f"{UUID[:8]}\u200b{UUID[8:]}",
    "byte order mark": f"\ufeff{UUID}",
    "right-to-left override": f"\u202e{UUID}",
    "trailing NUL": f"{UUID}\0",
    "NUL and more": f"{UUID}\0{UUID}",
    "two ids": f"{UUID}\n{UUID}",
    "upper case": UUID.upper(),
    "one letter in upper case": f"{UUID[:-1]}B",
    "Arabic digits": UUID.replace("1234", "\u0661\u0662\u0663\u0664"),
    "full-width digits": UUID.replace("1234", "\uff11\uff12\uff13\uff14"),
    "full-width letter": UUID.replace("a", "\uff41"),
    "Cyrillic letter": UUID.replace("a", "\u0430"),
    "superscript digit": UUID.replace("2", "\u00b2"),
    "dashes that look alike": UUID.replace("-", "\u2010"),
    "no dashes": UUID.replace("-", ""),
    "a dash astray": "1234abcd1-2ab-34cd-56ef-1234567890ab",
    "in braces": f"{{{UUID}}}",
    "a URN": f"urn:uuid:{UUID}",
    "not hexadecimal": UUID.replace("a", "g"),
    "a digit short": UUID[:-1],
    "a digit long": f"{UUID}0",
    "path of a key": f"key/{UUID}",
    "percent-encoded": UUID.replace("-", "%2d"),
    "2049 characters": "0" * 2049,
    "2049 characters after an id": UUID.ljust(2049, "0"),
    "2049 characters after an ARN": ARN.ljust(2049),
    "alias of 2049 characters": "alias/".ljust(2049, "a"),
    "mrk a digit short": MRK[:-1],
    "mrk a digit long": f"{MRK}0",
    "mrk in upper case": MRK.upper(),
    "mrk prefix in upper case": MRK.replace("mrk", "MRK"),
    "mrk before a plain id": f"mrk-{UUID}",
    "mrk without dash": MRK.replace("-", ""),
    "mrk twice": f"mrk-{MRK}",
    "mrk digits alone": MRK.removeprefix("mrk-"),
    "ARN in upper case": ARN.upper(),
    "ARN scheme in upper case": ARN.replace("arn", "ARN"),
    "ARN of another service": ARN.replace(":kms:", ":iam:"),
    "ARN of an IAM role": "arn:aws:iam::111122223333:role/admin",
    "service in upper case": ARN.replace(":kms:", ":KMS:"),
    "Region in upper case": ARN.replace("us-east-1", "US-EAST-1"),
    "no Region": ARN.replace("us-east-1", ""),
    "Region of 33 characters": ARN.replace("us-east-1", "a" * 33),
    "Region with a dot": ARN.replace("us-east-1", "us-east-1.evil"),
    "no account": ARN.replace("111122223333", ""),
    "account of 11 digits": ARN.replace("111122223333", "11112222333"),
    "account of 13 digits": ARN.replace("111122223333", "1111222233334"),
    "account with dashes": ARN.replace("111122223333", "1111-2222-3333"),
    "account in Arabic digits": ARN.replace("111122223333", "\u0661" * 12),
    "account of letters": ARN.replace("111122223333", "aaaabbbbcccc"),
    "no partition": ARN.replace(":aws:", "::"),
    "a foreign partition": ARN.replace(":aws:", ":azure:"),
    "a colon too many": ARN.replace(":key/", "::key/"),
    "a colon too few": ARN.replace(":kms:us", ":kmsus"),
    "a trailing colon": f"{ARN}:",
    "a leading colon": f":{ARN}",
    "a colon for the slash": ARN.replace("key/", "key:"),
    "a trailing slash": f"{ARN}/",
    "a trailing slash on a bare id": f"{UUID}/",
    "two slashes": ARN.replace("key/", "key//"),
    "a path upwards": ARN.replace("key/", "key/../key/"),
    "another resource": ARN.replace(":key/", ":grant/"),
    "Key with a capital": ARN.replace(":key/", ":Key/"),
    "no id": ARN.removesuffix(UUID),
    "ARN in an ARN": ARN.replace(UUID, ARN),
    "ARN and newline": f"{ARN}\n",
    "ARN and NUL": f"{ARN}\0",
    "newline and ARN": f"\n{ARN}",
    "a wildcard": ARN.replace(UUID, "*"),
    "Alias with a capital": "Alias/payments",
    "alias after a space": " alias/payments",
    "alias alone": "alias",
}

ALIASES = {
    "name": "alias/payments",
    "name of AWS's own": "alias/aws/s3",
    "no name": "alias/",
    "a key id for a name": f"alias/{UUID}",
    "a newline inside": "alias/a\nb",
    "ARN": "arn:aws:kms:us-east-1:111122223333:alias/payments",
    "ARN elsewhere": "arn:aws-cn:kms:cn-north-1:444455556666:alias/payments",
    "ARN without Region and account": "arn:aws:kms:::alias/payments",
}

ABROAD: dict[str, tuple[str, type[errors.BrokerError]]] = {
    "partition": (ARN.replace(":aws:", ":aws-cn:"), errors.RegionNotServed),
    "partition and Region": (ARN.replace("aws:kms:us-east-1", "aws-us-gov:kms:us-gov-west-1"), errors.RegionNotServed),
    "Region": (ARN.replace("us-east-1", "us-west-2"), errors.RegionNotServed),
    "Region that is none": (ARN.replace("us-east-1", "us-east-10"), errors.RegionNotServed),
    "Region and account": (
        ARN.replace("us-east-1:111122223333", "us-west-2:444455556666"),
        errors.RegionNotServed,
    ),
    "account": (ARN.replace("111122223333", "444455556666"), errors.ForeignAccount),
    "account of zeros": (ARN.replace("111122223333", "0" * 12), errors.ForeignAccount),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_key_id_is_malformed(text: str) -> None:
    """Nothing but the one spelling of a key id or key ARN gets through, and the field at fault is named."""
    with pytest.raises(errors.KeyIdMalformed) as caught:
        KeyArn.parse(text, HOME)

    assert caught.value.field == "key_id"


@pytest.mark.parametrize("text", ALIASES.values(), ids=ALIASES)
def test_an_alias_is_not_allowed(text: str) -> None:
    """An alias is told apart from nonsense, so that the caller learns what to send instead."""
    with pytest.raises(errors.AliasNotAllowed) as caught:
        KeyArn.parse(text, HOME)

    assert caught.value.field == "key_id"


@pytest.mark.parametrize(("text", "reason"), ABROAD.values(), ids=ABROAD)
def test_a_key_elsewhere_parses_and_is_refused(text: str, reason: type[errors.BrokerError]) -> None:
    """An ARN of another partition, Region or account is well formed; that it is not ours is said by its own reason."""
    key = KeyArn.parse(text, HOME)

    with pytest.raises(reason):
        POLICY.require_own(key, HOME)
    assert str(key) == text


def test_the_refusal_of_a_region_lists_those_served() -> None:
    """REGION_NOT_SERVED carries the partition and Regions that would do."""
    key = KeyArn.parse(ABROAD["Region"][0], HOME)

    with pytest.raises(errors.RegionNotServed) as caught:
        POLICY.require_own(key, HOME)

    assert caught.value.metadata == {"regions": "us-east-1 eu-west-1", "partition": "aws"}


@pytest.mark.parametrize("arn", [ARN, MRK_ARN, ARN.replace("us-east-1", "eu-west-1")])
def test_a_key_at_home_is_our_own(arn: str) -> None:
    """A key of our account in any Region served is not refused."""
    key = KeyArn.parse(arn, HOME)

    POLICY.require_own(key, HOME)


@pytest.mark.parametrize(("bare", "arn"), [(UUID, ARN), (MRK, MRK_ARN)])
def test_a_bare_id_and_its_arn_are_one_key(bare: str, arn: str) -> None:
    """A bare id means a key of the first Region: equal to its ARN, and the same in a mapping."""
    by_id, by_arn = KeyArn.parse(bare, HOME), KeyArn.parse(arn, HOME)

    assert by_id == by_arn
    assert len({by_id, by_arn}) == 1
    assert str(by_id) == arn


def test_a_multi_region_key_is_another_in_each_region() -> None:
    """Replicas share their key id, yet each has import parameters of its own."""
    here = KeyArn.parse(MRK_ARN, HOME)
    there = KeyArn.parse(MRK_ARN.replace("us-east-1", "eu-west-1"), HOME)

    assert here.key_id == there.key_id
    assert len({here, there}) == 2


HEX = "0123456789abcdef"
key_ids = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda uuid: f"mrk-{uuid.hex}"),
)
key_arns = st.builds(
    lambda place, key_id: f"arn:{place}:key/{key_id}",
    st.sampled_from(
        [
            "aws:kms:us-east-1:111122223333",
            "aws-cn:kms:cn-north-1:111122223333",
            "aws-iso-b:kms:us-isob-east-1:0" + "1" * 11,
        ]
    ),
    key_ids,
)
near_misses = st.text(alphabet=HEX + "ABC-:/arnwskmlie \n\0\u0661\uff11", max_size=90)


@given(st.one_of(st.text(), near_misses, key_ids, key_arns))
def test_a_text_has_one_meaning_or_none(text: str) -> None:
    """Any text is refused, or is an ARN's only spelling, or is the id at its end."""
    try:
        key = KeyArn.parse(text, HOME)
    except (errors.KeyIdMalformed, errors.AliasNotAllowed):
        return

    assert text in (str(key), key.key_id)
    assert KeyArn.parse(str(key), HOME) == key


@given(valid=st.one_of(key_ids, key_arns), data=st.data())
def test_one_character_astray_is_never_the_same_key(valid: str, data: st.DataObject) -> None:
    """No insertion, deletion or replacement of one character makes a second spelling of a key."""
    place = data.draw(st.integers(min_value=0, max_value=len(valid)))
    kept = data.draw(st.integers(min_value=place, max_value=min(place + 1, len(valid))))
    character = data.draw(
        st.one_of(st.just(""), st.characters(), st.sampled_from(f"{HEX.upper()}-:/ \n\0\u0661\uff11"))
    )
    mutant = valid[:place] + character + valid[kept:]

    try:
        key = KeyArn.parse(mutant, HOME)
    except (errors.KeyIdMalformed, errors.AliasNotAllowed):
        return

    assert (key == KeyArn.parse(valid, HOME)) == (mutant == valid)
