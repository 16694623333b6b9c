"""Every fault shows on the wire what it says."""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientResponse, ClientSession
from botocore.exceptions import ClientError, ConnectionClosedError
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from demo.embedded_kms import aws_client, kms_client
from tests.kms_breakdowns import BREAKDOWNS
from tests.kms_ceremony import get, put, refusal
from tests.kms_double import ACCOUNT, CANARY, DAY, ERRORS, FAULTS, HTML, HUGE, OTHER_ACCOUNT, KmsDouble, kms_double
from tests.kms_exchange import OPERATIONS
from tests.kms_lies import LIES

SCOPE = f"AWS4-HMAC-SHA256 Credential={ACCOUNT}/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0"
MEMBERS = {"KeyId", "ImportToken", "PublicKey", "ParametersValidTo"}


def key(answer: dict[str, Any]) -> rsa.RSAPublicNumbers:
    """The public key of an answer, which the lie left an RSA key."""
    public_key = load_der_public_key(base64.b64decode(answer["PublicKey"]))
    assert isinstance(public_key, rsa.RSAPublicKey)
    return public_key.public_numbers()


def ahead(answer: dict[str, Any]) -> float:
    """How many days the set has left."""
    return float((answer["ParametersValidTo"] - time.time()) / DAY)


CHECKS: dict[str, Callable[[dict[str, Any], str], bool]] = {
    "wrong_arn": lambda a, arn: a["KeyId"] != arn and a["KeyId"].rpartition("/")[0] == arn.rpartition("/")[0],
    "other_account_arn": lambda a, arn: a["KeyId"] == arn.replace(ACCOUNT, OTHER_ACCOUNT),
    "missing_key_id": lambda a, _: set(a) == MEMBERS - {"KeyId"},
    "empty_object": lambda a, _: a == {},
    "wrong_type": lambda a, _: a["ImportToken"] == 7,
    "ec_key": lambda a, _: isinstance(load_der_public_key(base64.b64decode(a["PublicKey"])), ec.EllipticCurvePublicKey),
    "rsa_1024": lambda a, _: key(a).n.bit_length() == 1024,
    "wrong_rsa_size": lambda a, _: key(a).n.bit_length() == 3072,
    "even_modulus": lambda a, _: key(a).n % 2 == 0 and key(a).n.bit_length() == 2048,
    "small_factor": lambda a, _: key(a).n % 3 == 0 and key(a).n % 2 == 1 and key(a).n.bit_length() == 2048,
    "e3": lambda a, _: key(a).e == 3,
    "trailing_bytes": lambda a, _: len(base64.b64decode(a["PublicKey"])) == 296,
    "missing_public_key": lambda a, _: set(a) == MEMBERS - {"PublicKey"},
    "missing_token": lambda a, _: set(a) == MEMBERS - {"ImportToken"},
    "missing_valid_to": lambda a, _: set(a) == MEMBERS - {"ParametersValidTo"},
    "not_base64": lambda a, _: a["ImportToken"] == "!not base64!",
    "empty_token": lambda a, _: a["ImportToken"] == "",
    "huge_token": lambda a, _: len(base64.b64decode(a["ImportToken"])) == 6145,
    "expired_valid_to": lambda a, _: ahead(a) < 0,
    "valid_to_100_days": lambda a, _: 99 < ahead(a) < 101,
    "valid_to_1e20": lambda a, _: a["ParametersValidTo"] == 1e20,
    "valid_to_string": lambda a, _: a["ParametersValidTo"] == "soon",
}


@pytest.fixture
async def double() -> AsyncIterator[KmsDouble]:
    """A double that has been told nothing yet."""
    async with kms_double() as running:
        yield running


@asynccontextmanager
async def asked(double: KmsDouble, arn: str) -> AsyncIterator[ClientResponse]:
    """The bare answer to GetParametersForImport, redirects as they are."""
    async with (
        ClientSession() as session,
        session.post(
            double.endpoint,
            headers={"X-Amz-Target": "TrentService.GetParametersForImport", "Authorization": SCOPE},
            json={"KeyId": arn, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"},
            allow_redirects=False,
        ) as response,
    ):
        yield response


def test_every_fault_is_tried() -> None:
    """A new fault needs a check, and says what it is."""
    assert set(CHECKS) == set(LIES)
    assert set(FAULTS) == {*LIES, *BREAKDOWNS, "throttle", *(f"error:{code}" for code in ERRORS)}
    assert all(fault.says and fault.operations <= OPERATIONS for fault in FAULTS.values())


@pytest.mark.parametrize("fault", LIES)
async def test_a_lie_is_told(double: KmsDouble, fault: str) -> None:
    """The answer is whole, well-formed, and wrong in the one way."""
    arn = double.add_key()
    double.lie("GetParametersForImport", fault)

    async with asked(double, arn) as response:
        answer = json.loads(await response.read())

    assert response.status == 200
    assert response.headers["x-amzn-RequestId"] == double.calls[0].request_id
    assert CHECKS[fault](answer, arn)


@pytest.mark.parametrize("fault", ["wrong_arn", "other_account_arn", "missing_key_id", "empty_object"])
async def test_descriptions_lie_too(double: KmsDouble, fault: str) -> None:
    """What names the key in an answer is wrong in DescribeKey's way of naming it."""
    arn = double.add_key()
    double.lie("DescribeKey", fault)

    async with kms_client(double.endpoint) as kms:
        answer = await kms.describe_key(KeyId=arn)

    assert answer.get("KeyMetadata", {}).get("Arn") != arn
    assert ("KeyMetadata" in answer) == (fault != "empty_object")


async def test_imports_lie_too(double: KmsDouble) -> None:
    """The work behind a lie is done."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    double.lie("ImportKeyMaterial", "wrong_arn")

    async with kms_client(double.endpoint) as kms:
        answer = await put(kms, await get(kms, arn), material)

    assert answer["KeyId"] != arn
    assert double.material(arn) == material


@pytest.mark.parametrize("code", ERRORS)
async def test_every_error_arrives(double: KmsDouble, code: str) -> None:
    """By its code, with its status, a request id, and the canary in the message: from KMS and from STS."""
    arn = double.add_key()
    double.lie("GetParametersForImport", f"error:{code}")
    double.lie("GetCallerIdentity", f"error:{code}")

    async with kms_client(double.endpoint) as kms, aws_client("sts", double.endpoint) as sts:
        with pytest.raises(ClientError) as of_kms:
            await get(kms, arn)
        with pytest.raises(ClientError) as of_sts:
            await sts.get_caller_identity()

    for raised, call in zip((of_kms, of_sts), double.calls, strict=True):
        response = raised.value.response
        assert response["Error"]["Code"] == code
        assert CANARY in response["Error"]["Message"]
        assert response["ResponseMetadata"]["HTTPStatusCode"] == ERRORS[code]
        assert response["ResponseMetadata"]["RequestId"] == call.request_id


async def test_sts_may_name_another_account(double: KmsDouble) -> None:
    """The account is not the one that signs."""
    double.lie("GetCallerIdentity", "other_account_arn")

    async with aws_client("sts", double.endpoint) as sts:
        identity = await sts.get_caller_identity()

    assert identity["Account"] == OTHER_ACCOUNT


async def test_truncated_json(double: KmsDouble) -> None:
    """The length is right for what is there, and what is there does not parse."""
    arn = double.add_key()
    double.lie("GetParametersForImport", "truncated_json")

    async with asked(double, arn) as response:
        body = await response.read()

    assert len(body) == int(response.headers["Content-Length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


@pytest.mark.parametrize("status", [200, 503])
async def test_web_page(double: KmsDouble, status: int) -> None:
    """A page where JSON should be, as of a captive portal or a load balancer."""
    double.lie("GetParametersForImport", f"html_{status}")

    async with asked(double, double.add_key()) as response:
        body = await response.text()

    assert (response.status, response.content_type, body) == (status, "text/html", HTML)


@pytest.mark.parametrize("status", [302, 307])
async def test_redirect(double: KmsDouble, status: int) -> None:
    """It points at an origin that is there, and counts who comes."""
    double.lie("GetParametersForImport", f"redirect_{status}")

    async with asked(double, double.add_key()) as response:
        target = response.headers["Location"]
    unmoved = double.redirect_target_hits
    async with ClientSession() as session, session.post(target, json={}) as followed:
        await followed.read()

    assert response.status == status
    assert target.startswith("http://127.0.0.1:")
    assert target != double.endpoint
    assert (unmoved, double.redirect_target_hits) == (0, 1)


async def test_slow_drip(double: KmsDouble) -> None:
    """A byte now and then: no single read ever waits long."""
    double.lie("GetParametersForImport", "slow_drip")

    started = time.monotonic()
    async with asked(double, double.add_key()) as response:
        read = [await response.content.readexactly(1) for _ in range(4)]
        took = time.monotonic() - started

    assert b"".join(read) == b'{"Ke'
    assert took > 0.5


@pytest.mark.parametrize(("fault", "done"), [("hang", False), ("hang_after_work", True)])
async def test_hang(double: KmsDouble, fault: str, done: bool) -> None:
    """No answer; the other calls go on, and the work is done or not as the name says."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    double.lie("ImportKeyMaterial", fault)

    async with kms_client(double.endpoint) as kms:
        parameters = await get(kms, arn)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(put(kms, parameters, material), 0.3)
        await kms.describe_key(KeyId=arn)

    assert (double.material(arn) == material) is done


async def test_huge_body(double: KmsDouble) -> None:
    """It streams for as long as anyone reads, up to 50 MiB."""
    double.lie("GetParametersForImport", "huge_body")

    async with asked(double, double.add_key()) as response:
        size = sum([len(chunk) async for chunk in response.content.iter_any()])
    async with asked(double, double.add_key()) as response:
        await response.content.readexactly(2**20)

    assert size == HUGE + len('{"KeyId": ""}')


@pytest.mark.parametrize(("fault", "done"), [("close_before_answer", False), ("close_after_work", True)])
async def test_close(double: KmsDouble, fault: str, done: bool) -> None:
    """The connection ends without a byte; the work is done or not as the name says."""
    arn, material = double.add_key(), secrets.token_bytes(32)
    double.lie("ImportKeyMaterial", fault)

    async with kms_client(double.endpoint) as kms:
        parameters = await get(kms, arn)
        with pytest.raises(ConnectionClosedError):
            await put(kms, parameters, material)

    assert (double.material(arn) == material) is done
    assert double.count("ImportKeyMaterial") == 1


async def test_reset_mid_answer(double: KmsDouble) -> None:
    """Headers and half of the body arrive, then the connection is reset."""
    double.lie("GetParametersForImport", "reset_mid_answer")

    async with asked(double, double.add_key()) as response:
        with pytest.raises((ClientPayloadError, ClientConnectionError)) as raised:
            await response.read()

    assert response.status == 200
    assert "reset" in repr(raised.value) + repr(raised.value.__cause__)


async def test_throttle(double: KmsDouble) -> None:
    """KMS's own word for too fast."""
    double.lie("GetParametersForImport", "throttle", times=1)

    async with kms_client(double.endpoint) as kms:
        arn = double.add_key()
        codes = [await refusal(get(kms, arn)) for _ in range(2)]

    assert codes == ["ThrottlingException", ""]


async def test_nothing_outlasts_the_double() -> None:
    """A double with callers still hanging goes away at once."""
    headers = {"X-Amz-Target": "TrentService.GetParametersForImport", "Authorization": SCOPE}
    async with ClientSession() as session:
        async with kms_double() as double:
            double.lie("GetParametersForImport", "hang")
            callers = [asyncio.create_task(_post(session, double.endpoint, headers)) for _ in range(20)]
            await asyncio.wait_for(double.reached("GetParametersForImport", 20), 5)
        _done, waiting = await asyncio.wait(callers, timeout=5)

    assert not waiting


async def _post(session: ClientSession, url: str, headers: dict[str, str]) -> None:
    with suppress(ClientConnectionError):
        async with session.post(url, headers=headers, json={}):
            pass
