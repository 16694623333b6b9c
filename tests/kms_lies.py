"""Answers of a KMS double that arrive whole and are wrong; what was asked for is done all the same."""

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.kms_calls import Call
from tests.kms_exchange import KEYED, OPERATIONS, Exchange, Fault
from tests.kms_keys import DAY
from tests.kms_wrapping import KEY_SIZES, next_wrapping_key, spki

OTHER_ACCOUNT = "999900001111"

_SET = frozenset({"GetParametersForImport"})


def _altered(says: str, alter: Callable[[dict[str, Any]], dict[str, Any]], operations: frozenset[str] = _SET) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        return exchange.success(alter(await exchange.carry_out()))

    return Fault(says=says, answer=answer, operations=operations)


def _with(name: str, value: Any) -> Fault:
    return _altered(f"{name} is {value!r:.40}", lambda result: result | {name: value})


def _without(name: str) -> Fault:
    return _altered(f"no {name}", lambda result: {key: value for key, value in result.items() if key != name})


def _valid_to(says: str, value: Callable[[], float]) -> Fault:
    return _altered(f"ParametersValidTo is {says}", lambda result: result | {"ParametersValidTo": value()})


def _public_key(says: str, make: Callable[[bytes, Call], Awaitable[bytes]]) -> Fault:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        result = await exchange.carry_out()
        key = await make(base64.b64decode(result["PublicKey"]), exchange.call)
        return exchange.success(result | {"PublicKey": base64.b64encode(key).decode()})

    return Fault(says=f"the public key {says}", answer=answer, operations=_SET)


async def _ec_key(_honest: bytes, _call: Call) -> bytes:
    return _der(ec.generate_private_key(ec.SECP256R1()).public_key())


async def _rsa_1024(_honest: bytes, _call: Call) -> bytes:
    return spki(await next_wrapping_key(1024))


async def _other_size(_honest: bytes, call: Call) -> bytes:
    asked = KEY_SIZES[call.request["WrappingKeySpec"]]
    return spki(await next_wrapping_key(3072 if asked == KEY_SIZES["RSA_2048"] else 2048))


async def _even_modulus(honest: bytes, _call: Call) -> bytes:
    numbers = _numbers(honest)
    return _der(rsa.RSAPublicNumbers(e=numbers.e, n=numbers.n - 1).public_key())


async def _multiple_of_three(honest: bytes, _call: Call) -> bytes:
    numbers = _numbers(honest)
    multiple = numbers.n - numbers.n % 3
    return _der(rsa.RSAPublicNumbers(e=numbers.e, n=multiple if multiple % 2 else multiple - 3).public_key())


async def _e3(honest: bytes, _call: Call) -> bytes:
    return _der(rsa.RSAPublicNumbers(e=3, n=_numbers(honest).n).public_key())


async def _trailing_bytes(honest: bytes, _call: Call) -> bytes:
    return honest + b"\x00\x00"


def _numbers(der: bytes) -> rsa.RSAPublicNumbers:
    key = serialization.load_der_public_key(der)
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("KMS's wrapping keys are RSA keys")
    return key.public_numbers()


def _der(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _with_arn(result: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    if "KeyMetadata" in result:
        arn = change(result["KeyMetadata"]["Arn"])
        return {"KeyMetadata": result["KeyMetadata"] | {"Arn": arn, "KeyId": arn.rpartition("/")[2]}}
    return result | {"KeyId": change(result["KeyId"])}


def _wrong_arn(result: dict[str, Any]) -> dict[str, Any]:
    return _with_arn(result, lambda arn: f"{arn.rpartition('/')[0]}/00000000-0000-4000-8000-000000000000")


def _other_account(result: dict[str, Any]) -> dict[str, Any]:
    if "Account" in result:
        return result | {"Account": OTHER_ACCOUNT, "Arn": f"arn:aws:iam::{OTHER_ACCOUNT}:root"}
    return _with_arn(result, lambda arn: ":".join([*arn.split(":")[:4], OTHER_ACCOUNT, *arn.split(":")[5:]]))


def _without_key_id(result: dict[str, Any]) -> dict[str, Any]:
    result = result.get("KeyMetadata", result)
    kept = {name: value for name, value in result.items() if name not in ("KeyId", "Arn")}
    return {"KeyMetadata": kept} if "KeySpec" in kept else kept


def _wrong_type(result: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in ("ImportToken", "KeyMetadata", "KeyId") if name in result]
    return result | {names[0]: 7}


LIES: dict[str, Fault] = {
    "wrong_arn": _altered("the ARN is another key's", _wrong_arn, KEYED),
    "other_account_arn": _altered("the ARN, or what STS says, is of another account", _other_account, OPERATIONS),
    "missing_key_id": _altered("the key is not named", _without_key_id, KEYED),
    "empty_object": _altered("the result is empty", lambda _result: {}, OPERATIONS),
    "wrong_type": _altered("a number stands for the token, the metadata or the key id", _wrong_type, KEYED),
    "ec_key": _public_key("is on P-256", _ec_key),
    "rsa_1024": _public_key("has 1024 bits", _rsa_1024),
    "wrong_rsa_size": _public_key("is sound, of a size nobody asked for", _other_size),
    "even_modulus": _public_key("has an even modulus", _even_modulus),
    "small_factor": _public_key("has a modulus that 3 divides", _multiple_of_three),
    "e3": _public_key("has the exponent 3", _e3),
    "trailing_bytes": _public_key("has two bytes behind its DER", _trailing_bytes),
    "missing_public_key": _without("PublicKey"),
    "missing_token": _without("ImportToken"),
    "missing_valid_to": _without("ParametersValidTo"),
    "not_base64": _with("ImportToken", "!not base64!"),
    "empty_token": _with("ImportToken", ""),
    "huge_token": _with("ImportToken", base64.b64encode(bytes(6145)).decode()),
    "expired_valid_to": _valid_to("a minute ago", lambda: round(time.time() - 60, 3)),
    "valid_to_100_days": _valid_to("in 100 days", lambda: round(time.time() + 100 * DAY, 3)),
    "valid_to_1e20": _with("ParametersValidTo", 1e20),
    "valid_to_string": _with("ParametersValidTo", "soon"),
}
