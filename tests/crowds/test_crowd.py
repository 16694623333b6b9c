"""Many callers at once, against a broker process, with KMS's requests counted on the way to the embedded KMS."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from demo.broker_process import broker_process
from demo.embedded_kms import embedded_kms, kms_client
from keyimport import KeyImportClient
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of
from tests.fleet.harness import worst_excess
from tests.kms_double import kms_double
from tests.kms_proxy import kms_proxy
from tests.kms_wrapping import next_wrapping_key
from tests.stalls import stalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GET = "GetParametersForImport"
CROWD = 10_000


def _settings(tmp_path: Path, endpoint: str, rate: float, callers: tuple[str, ...]) -> str:
    listeners = "".join(
        f'[[listeners]]\naddress = "unix:{tmp_path}/{caller}.sock"\ncaller = "{caller}"\n' for caller in callers
    )
    return f'{listeners}[kms]\nregions = ["us-east-1"]\nendpoint = "{endpoint}"\nrequests_per_second = {rate}\n'


@asynccontextmanager
async def _broker(tmp_path: Path, endpoint: str, *, rate: float, callers: tuple[str, ...]) -> AsyncIterator[list[str]]:
    """A broker process with a socket for each caller; their targets."""
    config = tmp_path / "keybroker.toml"
    config.write_text(_settings(tmp_path, endpoint, rate, callers))
    targets = [f"unix:{tmp_path}/{caller}.sock" for caller in callers]
    async with broker_process(config, targets[0], log=tmp_path / "keybroker.log"):
        yield targets


async def _ask(channel: grpc.aio.Channel, arn: str, timeout: float = 90) -> Any:  # noqa: ASYNC109 -- the RPC's deadline
    stub: Any = key_import_pb2_grpc.KeyImportServiceStub(channel)
    return await stub.GetParametersForImport(pb.GetParametersForImportRequest(key_id=arn), timeout=timeout)


async def test_ten_thousand_callers_of_a_cold_slot_cause_one_call(tmp_path: Path) -> None:
    """KMS is held until all have asked; then one request serves them all, and after an import there is a new set."""
    async with (
        embedded_kms() as endpoint,
        kms_client(endpoint) as kms,
        kms_proxy(endpoint) as proxy,
        _broker(tmp_path, proxy.endpoint, rate=1.0, callers=("local",)) as targets,
    ):
        arn = (await kms.create_key(Origin="EXTERNAL"))["KeyMetadata"]["Arn"]
        channels = [grpc.aio.insecure_channel(targets[0], options=[("own", n)]) for n in range(20)]
        proxy.pause()
        callers = [asyncio.ensure_future(_ask(channels[n % 20], arn)) for n in range(CROWD)]
        await proxy.reached("DescribeKey", 1)
        callers[0].cancel()
        proxy.resume()
        answers = await asyncio.gather(*callers[1:])
        for channel in channels:
            await channel.close()
        calls = proxy.count(GET)

        async with KeyImportClient(targets[0]) as client:
            await client.import_key_material(arn, bytes(32), never_expires=True)
            after = await client.get_parameters(arn)

    assert calls == 1
    assert len(answers) == CROWD - 1
    assert {answer.import_token for answer in answers} == {answers[0].import_token}
    assert after.import_token != answers[0].import_token


async def test_the_quota_is_kept_and_shared_fairly(tmp_path: Path) -> None:
    """At 2/s, callers wanting 10, 10 and 1 new keys: KMS sees no more, and the one waits for three tokens at most."""
    rate = 2.0
    async with (
        kms_double() as double,
        _broker(tmp_path, double.endpoint, rate=rate, callers=("alice", "bob", "carol")) as targets,
        stalls() as noted,
    ):
        await next_wrapping_key(4096)  # made now, since it keeps this process from noting arrivals
        alice, bob, carol = (grpc.aio.insecure_channel(target) for target in targets)
        wanted = [(alice, double.add_key()) for _ in range(10)] + [(bob, double.add_key()) for _ in range(10)]
        many = [asyncio.ensure_future(_ask(channel, arn)) for channel, arn in wanted]
        one_key = double.add_key()
        one = asyncio.ensure_future(_ask(carol, one_key))
        await double.reached(GET, 1)
        hasty_started = time.monotonic()
        refused = await refusal_of(_ask(bob, double.add_key(), timeout=1))
        told_after = time.monotonic() - hasty_started

        await one
        before_the_one = [call.key_id for call in double.calls if call.operation == GET].index(one_key)
        await asyncio.gather(*many)
        for channel in (alice, bob, carol):
            await channel.close()

    arrivals = double.arrivals(GET)
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    print(f"21 keys at {rate}/s: {len(arrivals)} requests, mean gap x rate = {sum(gaps) / len(gaps) * rate:.3f}")
    print(f"carol's request was number {before_the_one + 1}; a hasty caller was told in {told_after * 1000:.0f} ms")
    assert len(arrivals) == 21
    # A bucket of one lets through rate x t + 1 in any t. A loaded machine notes an arrival late, and so brings two
    # closer together: by a quarter of a second, and by as long as it stalls.
    assert worst_excess(arrivals, rate) <= 1 + rate * (0.25 + noted.longest())
    assert before_the_one <= 3
    assert refused.reason == "QUOTA_WAIT_EXCEEDS_DEADLINE"
    assert refused.retry_after is not None
    assert refused.retry_after > 1
