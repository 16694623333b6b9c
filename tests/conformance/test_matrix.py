"""Every kind of key with every wrapping by every client: what AWS admits reaches the key, the rest costs nothing."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from demo.embedded_kms import aws_environment, embedded_kms, kms_client
from keybroker import aws
from tests.conformance.drivers import LANGUAGES
from tests.conftest import running, settings_for
from tests.key_work import KEY_SPECS, assert_works_with, create_key, new_material
from tests.kms_proxy import kms_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conformance.conftest import Marks
    from tests.conformance.drivers import Driver
    from tests.kms_proxy import KmsProxy

GET = "GetParametersForImport"
PATIENCE = 50.0  # seconds, on a busy machine
in_one_loop = pytest.mark.asyncio(loop_scope="module")

OAEP = ("RSAES_OAEP_SHA_256", "RSAES_OAEP_SHA_1")
AES_KEY_WRAP = ("RSA_AES_KEY_WRAP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1")
WRAPPING_KEY_SPECS = ("RSA_4096", "RSA_3072", "RSA_2048")
PAIRS = list(product(OAEP + AES_KEY_WRAP, WRAPPING_KEY_SPECS))

# https://docs.aws.amazon.com/kms/latest/developerguide/importing-keys-get-public-key-and-token.html
# Read from the page, not from the broker's policy, which is what is tested.
_ALGORITHMS = {"SYMMETRIC_DEFAULT": OAEP, "HMAC": OAEP, "RSA": AES_KEY_WRAP, "ECC": OAEP + AES_KEY_WRAP}


def suits(key_spec: str, algorithm: str, wrapping_key_spec: str) -> bool:
    """Whether AWS's table admits the wrapping for this kind of key."""
    if (key_spec, wrapping_key_spec) == ("ECC_NIST_P521", "RSA_2048") and algorithm in OAEP:
        return False
    return any(key_spec.startswith(kind) and algorithm in admitted for kind, admitted in _ALGORITHMS.items())


SUITABLE = {spec: [pair for pair in PAIRS if suits(spec, *pair)] for spec in KEY_SPECS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A broker, the KMS behind it, and what passes between the two."""

    target: str
    kms: Any
    proxy: KmsProxy

    def asked(self, arn: str) -> list[tuple[str, str]]:
        """The wrappings KMS was asked for parameters for."""
        return [
            (call.request["WrappingAlgorithm"], call.request["WrappingKeySpec"])
            for call in self.proxy.calls
            if (call.operation, call.key_id) == (GET, arn)
        ]

    async def ask(self, driver: Driver, do: str, arn: str, **fields: Any) -> dict[str, Any]:
        """Has a driver ask about a key."""
        return await driver.do({"do": do, "key_id": arn, "timeout_ms": int(PATIENCE * 1000), **fields})


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """A process that acts in the account, and that waits while MiniStack looks for the primes of a new RSA key."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in aws_environment().items():
            patch.setenv(name, value)
        patch.setattr(aws, "READ_LIMIT", PATIENCE)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(environment: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One KMS and one broker for the whole module; every test has keys of its own."""
    _ = environment
    policy = {"wrapping_algorithms": [*OAEP, *AES_KEY_WRAP]}
    async with embedded_kms() as endpoint, kms_client(endpoint) as kms, kms_proxy(endpoint) as proxy:
        settings = settings_for(tmp_path_factory.mktemp("broker"), proxy.endpoint, policy=policy)
        async with running(settings, call_limit=PATIENCE) as broker:
            yield Bench(target=broker.target, kms=kms, proxy=proxy)


@pytest.fixture
async def driver(drivers: dict[str, Driver], bench: Bench, language: str) -> Driver:
    """The language's driver, connected to the broker."""
    assert await drivers[language].do({"do": "connect", "target": bench.target}) == {"ok": {}}
    return drivers[language]


def test_the_table_is_whole() -> None:
    """Twelve kinds of keys and twelve wrappings; 94 of the pairs suit."""
    assert len(KEY_SPECS) == len(PAIRS) == 12
    assert sum(map(len, SUITABLE.values())) == 94


@in_one_loop
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("key_spec", KEY_SPECS)
async def test_a_kind_of_key_with_every_wrapping(
    bench: Bench, driver: Driver, marks: Marks, key_spec: str, language: str
) -> None:
    """A suitable one imports the very material at the price of one set; another is refused, with those that suit."""
    suitable = {f"{algorithm}/{spec}" for algorithm, spec in SUITABLE[key_spec]}
    for pair in PAIRS:
        arn, material = await create_key(bench.kms, key_spec), new_material(key_spec)
        wrapping = {"wrapping_algorithm": pair[0], "wrapping_key_spec": pair[1]}
        encoded = base64.b64encode(material).decode()

        answer = await bench.ask(driver, "import", arn, material=encoded, never_expires=True, **wrapping)

        if pair in SUITABLE[key_spec]:
            assert answer["ok"]["key_arn"] == arn
            assert bench.asked(arn) == [pair]
            await assert_works_with(bench.kms, arn, key_spec, material)
        else:
            # The client's own check may come first: an RSA key does not fit OAEP at all.
            error = answer["error"]
            assert error["type"] in {"WrappingUnsuitable", "MaterialUnsuitable"}
            assert error["type"] == "MaterialUnsuitable" or set(error["metadata"]["suitable"].split()) == suitable
            assert bench.asked(arn) == []
        marks.mark(f"{key_spec:<18}{pair[0]:<25}{pair[1]}{'' if pair in SUITABLE[key_spec] else '  refused'}", language)


@in_one_loop
@pytest.mark.parametrize("language", LANGUAGES)
async def test_an_unsuitable_wrapping_is_refused_before_kms_is_asked(
    bench: Bench, driver: Driver, marks: Marks, language: str
) -> None:
    """By the broker, with just those wrappings that would do."""
    for key_spec in KEY_SPECS:
        arn = await create_key(bench.kms, key_spec)
        for algorithm, wrapping_key_spec in [pair for pair in PAIRS if pair not in SUITABLE[key_spec]]:
            answer = await bench.ask(
                driver, "get", arn, wrapping_algorithm=algorithm, wrapping_key_spec=wrapping_key_spec
            )

            suitable = {"/".join(pair) for pair in SUITABLE[key_spec]}
            assert answer["error"]["type"] == "WrappingUnsuitable"
            assert set(answer["error"]["metadata"]["suitable"].split()) == suitable
        assert bench.asked(arn) == []
        marks.mark(f"{key_spec:<18}what does not suit", language)


@in_one_loop
@pytest.mark.parametrize("language", LANGUAGES)
async def test_the_broker_chooses_the_strongest_that_suits(
    bench: Bench, driver: Driver, marks: Marks, language: str
) -> None:
    """Where the caller leaves the choice it is never SHA-1, always the largest wrapping key, and it works."""
    for key_spec in KEY_SPECS:
        arn, material = await create_key(bench.kms, key_spec), new_material(key_spec)
        encoded = base64.b64encode(material).decode()

        answer = await bench.ask(driver, "import", arn, material=encoded, never_expires=True)

        expected = "RSA_AES_KEY_WRAP_SHA_256" if key_spec.startswith("RSA_") else "RSAES_OAEP_SHA_256"
        assert "ok" in answer
        assert bench.asked(arn) == [(expected, "RSA_4096")]
        await assert_works_with(bench.kms, arn, key_spec, material)
        marks.mark(f"{key_spec:<18}the strongest", language)
