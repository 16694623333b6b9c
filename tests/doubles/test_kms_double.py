"""The double keeps KMS's rules; the AWS client is the judge."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from demo.embedded_kms import aws_client, kms_client
from tests.kms_ceremony import describe, get, put, refusal
from tests.kms_double import ACCOUNT, DAY, Exchange, KmsDouble, kms_double
from tests.kms_wrapping import ALGORITHMS, KEY_SIZES

AES = secrets.token_bytes(32)


@pytest.fixture
async def double() -> AsyncIterator[KmsDouble]:
    """A strict double, as a test that does not care would take it."""
    async with kms_double() as running:
        yield running


@pytest.fixture
async def kms(double: KmsDouble) -> AsyncIterator[Any]:
    """An AWS client of its account."""
    async with kms_client(double.endpoint) as client:
        yield client


@pytest.mark.parametrize("spec", KEY_SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_imports_with_every_algorithm(double: KmsDouble, kms: Any, algorithm: str, spec: str) -> None:
    """What the caller wrapped is what the key then holds."""
    arn = double.add_key()

    parameters = await get(kms, arn, algorithm, spec)
    answer = await put(kms, parameters, AES, algorithm)

    assert double.material(arn) == AES
    assert answer["KeyId"] == arn
    assert len(answer["KeyMaterialId"]) == 64
    assert len(parameters["PublicKey"]) == {2048: 294, 3072: 422, 4096: 550}[KEY_SIZES[spec]]
    assert abs(parameters["ParametersValidTo"] - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=1)


@pytest.mark.parametrize("spec", ["HMAC_224", "HMAC_512", "RSA_2048", "ECC_NIST_P521", "ECC_SECG_P256K1"])
async def test_takes_only_material_of_the_key_s_kind(double: KmsDouble, kms: Any, spec: str) -> None:
    """Each spec has its own form of material, and the refusal of another does not spend the set."""
    arn = double.add_key(spec)
    material = {
        "HMAC_224": secrets.token_bytes(28),
        "HMAC_512": secrets.token_bytes(64),
        "RSA_2048": pkcs8(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        "ECC_NIST_P521": pkcs8(ec.generate_private_key(ec.SECP521R1())),
        "ECC_SECG_P256K1": pkcs8(ec.generate_private_key(ec.SECP256K1())),
    }[spec]

    parameters = await get(kms, arn, "RSA_AES_KEY_WRAP_SHA_256")
    refused = await refusal(put(kms, parameters, secrets.token_bytes(33), "RSA_AES_KEY_WRAP_SHA_256"))
    await put(kms, parameters, material, "RSA_AES_KEY_WRAP_SHA_256")

    assert refused == "IncorrectKeyMaterialException"
    assert double.material(arn) == material


async def test_describes_what_became_of_a_key(double: KmsDouble, kms: Any) -> None:
    """State and expiration follow import, expiry of the material, and delete; a state may be set as well."""
    arn = double.add_key(multi_region=True)
    ends = datetime.now(UTC) + timedelta(hours=2)

    before = await describe(kms, arn)
    await put(kms, await get(kms, arn), AES, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=ends)
    during = await describe(kms, arn)
    double.advance(3 * 3600)
    expired = await describe(kms, arn)
    await put(kms, await get(kms, arn), AES)
    await kms.delete_imported_key_material(KeyId=arn)
    after = await describe(kms, arn)
    double.keys.set_state(arn, "PendingDeletion")

    assert (before["KeyState"], before["MultiRegion"], before["Origin"]) == ("PendingImport", True, "EXTERNAL")
    assert (during["KeyState"], during["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_EXPIRES")
    assert abs(during["ValidTo"] - ends) < timedelta(seconds=1)
    assert expired["KeyState"] == after["KeyState"] == "PendingImport"
    assert double.material(arn) is None
    assert await refusal(get(kms, arn)) == "KMSInvalidStateException"


async def test_a_set_is_good_once_and_until_the_next(double: KmsDouble, kms: Any) -> None:
    """The strict reading: an import spends a set, a newer one kills it, a failed import does neither."""
    arn, other = double.add_key(), double.add_key()
    first = await get(kms, arn)
    second = await get(kms, arn)

    superseded = await refusal(put(kms, first, AES))
    foreign = await refusal(put(kms, second | {"KeyId": other}, AES))
    unreadable = await refusal(put(kms, second | {"PublicKey": first["PublicKey"]}, AES))
    await put(kms, second, AES)
    spent = await refusal(put(kms, second, AES))

    assert superseded == foreign == spent == "InvalidImportTokenException"
    assert unreadable == "InvalidCiphertextException"


async def test_sets_can_be_reusable() -> None:
    """The lenient reading, where both knobs are off."""
    async with kms_double(single_use=False, supersede=False) as double, kms_client(double.endpoint) as kms:
        arn = double.add_key()
        first = await get(kms, arn)
        await get(kms, arn)

        for _ in range(2):
            await put(kms, first, AES)

        assert double.material(arn) == AES


async def test_sets_expire(double: KmsDouble, kms: Any) -> None:
    """By KMS's clock, after the validity that was in force when they were made."""
    arn = double.add_key()
    double.keys.validity = 60
    parameters = await get(kms, arn)

    double.advance(61)

    assert await refusal(put(kms, parameters, AES)) == "ExpiredImportTokenException"
    assert double.now() > time.time() + 60


async def test_refuses_what_kms_refuses(double: KmsDouble, kms: Any) -> None:
    """One refusal for each rule a request can break, none of which spends the set."""
    arn = double.add_key()
    foreign, far = double.add_key(account="222233334444"), double.add_key(region="eu-west-1")
    parameters = await get(kms, arn)
    past: dict[str, Any] = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": datetime.now(UTC) - timedelta(days=1)}

    refusals = {
        "unknown key": await refusal(get(kms, arn.replace(arn[-4:], "0000"))),
        "alias": await refusal(get(kms, "alias/mine")),
        "no ARN": await refusal(get(kms, "arn:aws:s3:::bucket")),
        "other account": await refusal(get(kms, foreign)),
        "other region": await refusal(get(kms, far)),
        "not external": await refusal(get(kms, double.add_key(origin="AWS_KMS", state="Enabled"))),
        "old padding": await refusal(get(kms, arn, "RSAES_PKCS1_V1_5")),
        "no expiration": await refusal(put(kms, parameters, AES, ExpirationModel="KEY_MATERIAL_EXPIRES")),
        "past": await refusal(put(kms, parameters, AES, **past)),
        "wrong hash": await refusal(put(kms, parameters, AES, "RSAES_OAEP_SHA_1")),
    }
    await put(kms, parameters, AES)

    assert refusals == {
        "unknown key": "NotFoundException",
        "alias": "NotFoundException",
        "no ARN": "InvalidArnException",
        "other account": "AccessDeniedException",
        "other region": "NotFoundException",
        "not external": "UnsupportedOperationException",
        "old padding": "UnsupportedOperationException",
        "no expiration": "ValidationException",
        "past": "ValidationException",
        "wrong hash": "InvalidCiphertextException",
    }


async def test_material_belongs_to_its_key(double: KmsDouble, kms: Any) -> None:
    """A symmetric key takes one further material, for a rotation; a reimport must be of known bytes."""
    arn = double.add_key()
    new, existing = {"ImportType": "NEW_KEY_MATERIAL"}, {"ImportType": "EXISTING_KEY_MATERIAL"}
    later = secrets.token_bytes(32)

    virgin = await refusal(put(kms, await get(kms, arn), AES, **existing))
    await put(kms, await get(kms, arn), AES, **new)
    unknown = await refusal(put(kms, await get(kms, arn), later))
    await put(kms, await get(kms, arn), later, **new)
    third = await refusal(put(kms, await get(kms, arn), secrets.token_bytes(32), **new))

    assert virgin == unknown == "IncorrectKeyMaterialException"
    assert third == "KMSInvalidStateException"
    assert (double.material(arn), double.keys.pending_material(arn)) == (AES, later)


async def test_writes_down_every_call(double: KmsDouble) -> None:
    """What was asked, where, by whom, when, under which request id: also of calls it refuses."""
    arn = double.add_key(region="eu-west-1")
    before = time.monotonic()

    async with kms_client(double.endpoint, region="eu-west-1") as kms:
        answer = await get(kms, arn)
        await refusal(get(kms, "alias/none"))

    first, second = double.calls
    assert (first.operation, first.key_id, first.region) == ("GetParametersForImport", arn, "eu-west-1")
    assert first.access_key_id == ACCOUNT
    assert first.request["WrappingKeySpec"] == "RSA_2048"
    assert first.request_id == answer["ResponseMetadata"]["RequestId"] != second.request_id
    assert before < first.arrived < second.arrived < time.monotonic()
    assert (double.count("GetParametersForImport"), double.count("DescribeKey")) == (2, 0)


async def test_tells_who_calls(double: KmsDouble) -> None:
    """STS answers with the account that is the access key id."""
    async with aws_client("sts", double.endpoint) as sts:
        identity = await sts.get_caller_identity()

    assert identity["Account"] == ACCOUNT
    assert identity["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"


async def test_throttles_beyond_a_rate(double: KmsDouble, kms: Any) -> None:
    """The burst passes, then one call for every token that has come in meanwhile."""
    arn = double.add_key()
    double.limit("GetParametersForImport", per_second=1, burst=2)

    burst = [await refusal(get(kms, arn)) for _ in range(3)]
    await asyncio.sleep(1.05)
    later = [await refusal(get(kms, arn)) for _ in range(2)]

    assert burst == ["", "", "ThrottlingException"]
    assert later == ["", "ThrottlingException"]


async def test_takes_its_time(double: KmsDouble, kms: Any) -> None:
    """A latency is one operation's, and calls wait beside each other."""
    arn = double.add_key()
    double.latency["DescribeKey"] = 0.5

    started = time.monotonic()
    await asyncio.gather(*(describe(kms, arn) for _ in range(5)))
    took = time.monotonic() - started

    assert 0.5 <= took < 5 * 0.5


async def test_lies_as_often_as_told(double: KmsDouble, kms: Any) -> None:
    """Lies come in the order they were told, then the truth; `honest` takes back the rest."""
    arn = double.add_key()
    double.lie("DescribeKey", "throttle", times=1)
    double.lie("DescribeKey", "error:KMSInternalException", times=2)
    double.lie("GetParametersForImport", "throttle")

    described = [await refusal(describe(kms, arn)) for _ in range(4)]
    fetched = [await refusal(get(kms, arn)) for _ in range(3)]
    double.honest()

    assert described == ["ThrottlingException", "KMSInternalException", "KMSInternalException", ""]
    assert fetched == ["ThrottlingException"] * 3
    assert await refusal(get(kms, arn)) == ""


async def test_lies_of_one_s_own(double: KmsDouble, kms: Any) -> None:
    """A test may bring its own answer."""
    arn = double.add_key()

    async def disabled(exchange: Exchange) -> Any:
        metadata = (await exchange.carry_out())["KeyMetadata"]
        return exchange.success({"KeyMetadata": metadata | {"KeyState": "Disabled"}})

    double.lie("DescribeKey", disabled)

    assert (await describe(kms, arn))["KeyState"] == "Disabled"


def test_lies_only_where_it_makes_sense() -> None:
    """A fault that could never show is refused, and so is one nobody knows."""
    double = KmsDouble(single_use=True, supersede=True, validity=DAY, latency={})

    with pytest.raises(ValueError, match="cannot befall"):
        double.lie("DescribeKey", "missing_token")
    with pytest.raises(KeyError):
        double.lie("DescribeKey", "no such fault")


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """The form KMS takes a private key in."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
