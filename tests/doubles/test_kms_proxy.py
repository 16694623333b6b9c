"""The proxy passes calls on unchanged, counts them, holds them, and can be down."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from botocore.exceptions import EndpointConnectionError

from demo.embedded_kms import aws_client, kms_client
from tests.kms_ceremony import describe, get, put, refusal
from tests.kms_double import ACCOUNT, KmsDouble, kms_double
from tests.kms_proxy import KmsProxy, kms_proxy


@pytest.fixture
async def double() -> AsyncIterator[KmsDouble]:
    """The upstream."""
    async with kms_double() as running:
        yield running


@pytest.fixture
async def proxy(double: KmsDouble) -> AsyncIterator[KmsProxy]:
    """A proxy before it."""
    async with kms_proxy(double.endpoint) as running:
        yield running


async def test_an_import_passes(double: KmsDouble, proxy: KmsProxy) -> None:
    """Results, errors, request ids and signatures' scopes are the upstream's and the caller's."""
    arn, material = double.add_key(), secrets.token_bytes(32)

    async with kms_client(proxy.endpoint) as kms, aws_client("sts", proxy.endpoint) as sts:
        parameters = await get(kms, arn)
        await put(kms, parameters, material)
        code = await refusal(put(kms, parameters, material))
        identity = await sts.get_caller_identity()

    assert double.material(arn) == material
    assert code == "InvalidImportTokenException"
    assert identity["Account"] == ACCOUNT
    assert parameters["ResponseMetadata"]["RequestId"] == double.calls[0].request_id
    assert (proxy.count("GetParametersForImport"), proxy.count("ImportKeyMaterial")) == (1, 2)
    assert [call.operation for call in proxy.calls] == [call.operation for call in double.calls]
    assert proxy.arrivals("ImportKeyMaterial") == sorted(proxy.arrivals("ImportKeyMaterial"))


async def test_holds_a_crowd_at_the_gate(double: KmsDouble, proxy: KmsProxy) -> None:
    """While it is paused calls are counted and go no further; then all pass."""
    arn = double.add_key()
    proxy.pause()

    async with kms_client(proxy.endpoint) as kms:
        crowd = [asyncio.create_task(describe(kms, arn)) for _ in range(10)]
        await asyncio.wait_for(proxy.reached("DescribeKey", 10), 5)
        held = double.count("DescribeKey")
        proxy.resume()
        answers = await asyncio.gather(*crowd)

    assert held == 0
    assert [answer["Arn"] for answer in answers] == [arn] * 10
    assert double.count("DescribeKey") == 10


async def test_goes_down_and_comes_up(double: KmsDouble, proxy: KmsProxy) -> None:
    """Refused, then unavailable, then as before, all on one port; even with a caller held at the gate."""
    arn, endpoint = double.add_key(), proxy.endpoint

    async with kms_client(endpoint) as kms:
        proxy.pause()
        held = asyncio.create_task(describe(kms, arn))
        await asyncio.wait_for(proxy.reached("DescribeKey"), 5)
        await proxy.down()
        await asyncio.wait([held])
        with pytest.raises(EndpointConnectionError):
            await describe(kms, arn)
        proxy.resume()
        await proxy.up()
        proxy.unavailable()
        unavailable = await refusal(describe(kms, arn))
        await proxy.up()
        metadata = await describe(kms, arn)

    assert held.exception() is not None
    assert unavailable == "503"
    assert (metadata["Arn"], proxy.endpoint) == (arn, endpoint)
    assert double.count("DescribeKey") == 1


async def test_an_upstream_that_is_away() -> None:
    """The proxy says so, as a load balancer would."""
    async with kms_double() as gone:
        upstream = gone.endpoint

    async with kms_proxy(upstream) as proxy, kms_client(proxy.endpoint) as kms:
        code = await refusal(describe(kms, "alias/any"))

    assert code == "502"
