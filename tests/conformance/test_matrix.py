"""Every kind of key with every wrapping: what AWS's table admits reaches the key, the rest is refused at no cost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from demo.embedded_kms import aws_environment, embedded_kms, kms_client
from keybroker import aws
from keyimport import KeyImportClient, WrappingUnsuitable
from tests.conftest import running, settings_for
from tests.key_work import KEY_SPECS, assert_works_with, create_key, new_material
from tests.kms_proxy import kms_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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


SUITABLE = [(key_spec, *pair) for key_spec in KEY_SPECS for pair in PAIRS if suits(key_spec, *pair)]
UNSUITABLE = [(key_spec, *pair) for key_spec in KEY_SPECS for pair in PAIRS if not suits(key_spec, *pair)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A client of a broker, the KMS behind the broker, and what passes between the two."""

    client: KeyImportClient
    kms: Any
    proxy: KmsProxy

    def asked(self, arn: str) -> list[tuple[str, str]]:
        """The wrappings KMS was asked for parameters for."""
        return [
            (call.request["WrappingAlgorithm"], call.request["WrappingKeySpec"])
            for call in self.proxy.calls
            if (call.operation, call.key_id) == (GET, arn)
        ]


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
    """One KMS and one broker for the whole module; every test has a key of its own."""
    _ = environment
    policy = {"wrapping_algorithms": [*OAEP, *AES_KEY_WRAP]}
    async with embedded_kms() as endpoint, kms_client(endpoint) as kms, kms_proxy(endpoint) as proxy:
        settings = settings_for(tmp_path_factory.mktemp("broker"), proxy.endpoint, policy=policy)
        async with (
            running(settings, call_limit=PATIENCE) as broker,
            KeyImportClient(broker.target, timeout=PATIENCE) as client,
        ):
            yield Bench(client=client, kms=kms, proxy=proxy)


def test_the_table_is_whole() -> None:
    """Twelve kinds of keys and twelve wrappings; each pair is on one side."""
    assert len(KEY_SPECS) == len(PAIRS) == 12
    assert (len(SUITABLE), len(UNSUITABLE)) == (94, 50)


@in_one_loop
@pytest.mark.parametrize(("key_spec", "algorithm", "wrapping_key_spec"), SUITABLE)
async def test_a_suitable_wrapping_imports_the_very_material(
    bench: Bench, key_spec: str, algorithm: str, wrapping_key_spec: str
) -> None:
    """KMS is asked once, for just this wrapping, and the key then does what only this material explains."""
    arn, material = await create_key(bench.kms, key_spec), new_material(key_spec)

    imported = await bench.client.import_key_material(
        arn, material, never_expires=True, wrapping_algorithm=algorithm, wrapping_key_spec=wrapping_key_spec
    )

    assert imported.key_arn == arn
    assert bench.asked(arn) == [(algorithm, wrapping_key_spec)]
    await assert_works_with(bench.kms, arn, key_spec, material)


@in_one_loop
@pytest.mark.parametrize(("key_spec", "algorithm", "wrapping_key_spec"), UNSUITABLE)
async def test_an_unsuitable_wrapping_is_refused_before_kms_is_asked(
    bench: Bench, key_spec: str, algorithm: str, wrapping_key_spec: str
) -> None:
    """The quota is not touched, and the refusal lists just the wrappings that would do."""
    arn = await create_key(bench.kms, key_spec)

    with pytest.raises(WrappingUnsuitable) as refused:
        await bench.client.get_parameters(arn, wrapping_algorithm=algorithm, wrapping_key_spec=wrapping_key_spec)

    suitable = {f"{pair[0]}/{pair[1]}" for pair in PAIRS if suits(key_spec, *pair)}
    assert set(refused.value.metadata["suitable"].split()) == suitable
    assert bench.asked(arn) == []


@in_one_loop
@pytest.mark.parametrize("key_spec", KEY_SPECS)
async def test_the_broker_chooses_the_strongest_that_suits(bench: Bench, key_spec: str) -> None:
    """Where the caller leaves the choice it is never SHA-1, always the largest wrapping key, and it works."""
    arn, material = await create_key(bench.kms, key_spec), new_material(key_spec)

    await bench.client.import_key_material(arn, material, never_expires=True)

    expected = "RSA_AES_KEY_WRAP_SHA_256" if key_spec.startswith("RSA_") else "RSAES_OAEP_SHA_256"
    assert bench.asked(arn) == [(expected, "RSA_4096")]
    await assert_works_with(bench.kms, arn, key_spec, material)
