"""Settings that are good each by itself and not together are refused by check-config, each by its path."""

from __future__ import annotations

from typing import Any

import pytest

from keybroker.settings import SettingsError, parse

ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/{ID}"
SECOND = "arn:aws:kms:eu-west-1:111122223333:key/{}"

SMALLEST: dict[str, Any] = {
    "listeners": [{"address": "unix:/run/k.sock", "caller": "local"}],
    "kms": {"regions": ["us-east-1", "eu-west-1"], "account": "111122223333"},
}


def _tcp(*addresses: str) -> list[dict[str, Any]]:
    return [{"address": address, "plaintext": True, "caller": "dev"} for address in addresses]


def _prefetch(*keys: str, **more: Any) -> dict[str, Any]:
    return {"prefetch": [{"key_id": key} | more for key in keys]}


def _policy(algorithms: list[str], specs: list[str]) -> dict[str, Any]:
    return {"policy": {"wrapping_algorithms": algorithms, "wrapping_key_specs": specs}}


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"listeners": SMALLEST["listeners"] * 2}, "listeners[1].address: is the same as listeners[0].address"),
    (
        {"listeners": [{"address": f"unix:{path}", "caller": "local"} for path in ("/run/k.sock", "/run//k.sock")]},
        "listeners[1].address: is the same as listeners[0].address",
    ),
    (
        {"listeners": _tcp("tcp:[::1]:9", "tcp:127.0.0.1:7080", "tcp:localhost:7080")},
        "listeners[2].address: is the same as listeners[1].address",
    ),
    (
        {"listeners": _tcp("tcp:localhost:7080"), "ops": {"address": "[0:0::1]:7080"}},
        "ops.address: is the same as listeners[0].address",
    ),
    (_prefetch("nonsense"), f"prefetch[0].key_id: is no key id, such as {ID}, and no key ARN"),
    (
        _prefetch(ID, "alias/root"),
        "prefetch[1].key_id: is an alias, which may come to mean another key; write the key id or ARN",
    ),
    (
        _prefetch(ARN.replace("us-east-1", "us-west-2")),
        "prefetch[0].key_id: is a key of aws, us-west-2, which is not in kms.regions",
    ),
    (
        _prefetch(ARN.replace("aws", "aws-cn")),
        "prefetch[0].key_id: is a key of aws-cn, us-east-1, which is not in kms.regions",
    ),
    (
        _prefetch(ARN.replace("111122223333", "999988887777")),
        "prefetch[0].key_id: is a key of the account 999988887777, and not of kms.account",
    ),
    (
        _prefetch(ARN, ID),
        "prefetch[1].key_id: is prefetch[0]'s: their sets would end each other, unless parameters.supersede is false",
    ),
    (
        _prefetch(*(SECOND.format(f"{n:08x}{ID[8:]}") for n in range(4))) | {"parameters": {"max_entries": 3}},
        "prefetch[3].key_id: is one more than parameters.max_entries keeps sets of in eu-west-1",
    ),
    (
        _prefetch(ID, wrapping_algorithm="RSAES_OAEP_SHA_1"),
        "prefetch[0].wrapping_algorithm: is not among what [policy] allows in aws",
    ),
    (
        _prefetch(ID, wrapping_key_spec="SM2"),
        "prefetch[0].wrapping_key_spec: is not among what [policy] allows in aws",
    ),
    (
        {"watch": {"keys": {"root": ARN, "leaf": "alias/leaf"}}},
        "watch.keys.leaf: is an alias, which may come to mean another key; write the key id or ARN",
    ),
    (
        _policy(["SM2PKE"], ["SM2"]),
        "policy: of wrapping_algorithms and wrapping_key_specs no two go together in the Regions of aws",
    ),
    (
        {"kms": {"regions": ["cn-north-1"]}} | _policy(["SM2PKE"], ["RSA_4096"]),
        "policy: of wrapping_algorithms and wrapping_key_specs no two go together in the Regions of aws-cn",
    ),
]


@pytest.mark.parametrize(("over", "line"), BROKEN, ids=[line for _, line in BROKEN])
def test_what_does_not_go_together_is_refused(over: dict[str, Any], line: str) -> None:
    """By one line that names the setting to change."""
    with pytest.raises(SettingsError) as told:
        parse(SMALLEST | over)

    assert [line] == str(told.value).splitlines()


def test_all_is_told_at_once() -> None:
    """An operator mends a file in one round."""
    with pytest.raises(SettingsError) as told:
        parse(SMALLEST | _prefetch("x", ID, "alias/x") | {"watch": {"keys": {"root": "x"}}})

    paths = [line.partition(":")[0] for line in str(told.value).splitlines()]
    assert paths == ["prefetch[0].key_id", "prefetch[2].key_id", "watch.keys.root"]


@pytest.mark.parametrize(
    "over",
    [
        {"listeners": _tcp("tcp:127.0.0.1:0", "tcp:localhost:0", "tcp:127.0.0.1:80", "tcp:[::1]:80")},
        _prefetch(ID, SECOND.format(ID)),
        {"kms": {"regions": ["us-east-1"]}} | _prefetch(ARN),
        _prefetch(ID, ID) | {"parameters": {"supersede": False}},
        {"kms": {"regions": ["cn-north-1"]}} | _policy(["SM2PKE"], ["SM2"]) | _prefetch(ID),
        {"watch": {"keys": {"root": ARN, "leaf": ID}}},
    ],
)
def test_what_goes_together_is_taken(over: dict[str, Any]) -> None:
    """Without a word: any free port, the same key id in two Regions, an account that only STS knows."""
    parse(SMALLEST | over)
