"""Where requests to AWS would go, without sending any."""

from __future__ import annotations

from typing import Any

import pytest
from aiobotocore.session import get_session

from keybroker import aws
from keybroker.app import App
from keybroker.build import build_broker
from keybroker.clock import SystemClock
from keybroker.errors import StartError
from keybroker.home import find_home
from keybroker.model import Home
from keybroker.regions import partition_of
from keybroker.settings import parse
from keybroker.settings_kms import KmsSettings

REGIONS = {
    "us-east-1": "amazonaws.com",
    "eu-central-1": "amazonaws.com",
    "us-gov-west-1": "amazonaws.com",
    "cn-north-1": "amazonaws.com.cn",
    "eusc-de-east-1": "amazonaws.eu",
}
DUALSTACK = {
    "amazonaws.com": "api.aws",
    "amazonaws.com.cn": "api.amazonwebservices.com.cn",
    "amazonaws.eu": "api.amazonwebservices.eu",
}
VPCE = "https://vpce-1-2.kms.us-east-1.vpce.amazonaws.com"

pytestmark = pytest.mark.usefixtures("aws_credentials")


async def _asks(service: str, method: str, **how: Any) -> str:
    """The origin that a client made so sends its requests to."""
    async with aws.Session(how["region"]).client(service, **how) as client:
        parameters = {"KeyId": "a key"} if service == "kms" else {}
        url: str = await client.generate_presigned_url(method, Params=parameters)
    return url.partition("?")[0].rstrip("/")


@pytest.mark.parametrize(("region", "suffix"), REGIONS.items())
async def test_each_partition_has_its_own_names(region: str, suffix: str) -> None:
    """A Region's KMS and STS are those of the Region's partition, by the Region's own name."""
    kms = await _asks("kms", "describe_key", region=region, endpoint=None)
    sts = await _asks("sts", "get_caller_identity", region=region, endpoint=None)

    assert f"https://kms.{region}.{suffix}" == kms
    assert f"https://sts.{region}.{suffix}" == sts


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1"])
async def test_fips_endpoints_are_asked_if_the_settings_say_so(region: str) -> None:
    """STS's in GovCloud is the ordinary one."""
    kms = await _asks("kms", "describe_key", region=region, endpoint=None, fips=True)
    sts = await _asks("sts", "get_caller_identity", region=region, endpoint=None, fips=True)

    assert f"https://kms-fips.{region}.amazonaws.com" == kms
    assert f"https://{'sts' if 'gov' in region else 'sts-fips'}.{region}.amazonaws.com" == sts


@pytest.mark.parametrize(("region", "suffix"), REGIONS.items())
async def test_dualstack_endpoints_are_asked_if_the_settings_say_so(region: str, suffix: str) -> None:
    """Each partition has a domain of its own for them."""
    kms = await _asks("kms", "describe_key", region=region, endpoint=None, dualstack=True)
    both = await _asks("kms", "describe_key", region=region, endpoint=None, dualstack=True, fips=True)

    assert f"https://kms.{region}.{DUALSTACK[suffix]}" == kms
    assert f"https://kms-fips.{region}.{DUALSTACK[suffix]}" == both


async def test_the_broker_asks_what_its_settings_say() -> None:
    """In every Region, the first and the others."""
    regions = ("us-east-1", "us-west-2")
    listeners = [{"address": "unix:/run/k.sock", "caller": "local"}]
    settings = parse({"listeners": listeners, "kms": {"regions": regions, "use_fips": True, "use_dualstack": True}})
    ground = App(settings, SystemClock())._ground
    async with ground.clients:
        home = Home(partition="aws", account="111122223333", regions=regions)
        broker = await build_broker(ground, home, aws.Session(regions[0]), None)
        clients: list[Any] = [broker.regions[name].kms for name in regions]
        urls = [await each._kms._client.generate_presigned_url("describe_key", {"KeyId": "a key"}) for each in clients]

    assert [f"https://kms-fips.{name}.api.aws" for name in regions] == [url.partition("/?")[0] for url in urls]


async def test_an_endpoint_of_the_settings_is_asked_as_it_is() -> None:
    """A VPC endpoint's name is nobody's to change."""
    kms = await _asks("kms", "describe_key", region="us-east-1", endpoint=VPCE)
    sts = await _asks("sts", "get_caller_identity", region="us-east-1", endpoint=VPCE, fips=True, dualstack=True)

    assert [VPCE, VPCE] == [kms, sts]


@pytest.mark.parametrize("variable", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
async def test_the_environment_chooses_no_endpoint(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """What the settings say is what is asked."""
    monkeypatch.setenv(variable, "true")

    kms = await _asks("kms", "describe_key", region="us-east-1", endpoint=None)

    assert kms == "https://kms.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("regions", "sentence"),
    [
        (("cn-north-1",), "KMS in cn-north-1"),
        (("eu-central-1",), "STS in eu-central-1; name the endpoint to ask in kms.sts_endpoint"),
    ],
)
async def test_fips_where_there_is_none_is_refused_at_start(regions: tuple[str, ...], sentence: str) -> None:
    """The SDK would make up a name; the broker neither looks for it for ever nor goes on without FIPS."""
    with pytest.raises(StartError) as refusal:
        await find_home(KmsSettings(regions=regions, use_fips=True))

    assert f"kms.use_fips: the AWS SDK knows no FIPS endpoint of {sentence}" == str(refusal.value)


def test_a_partition_is_told_by_a_regions_name() -> None:
    """As the SDK has it, which check-config does without."""
    named = get_session().get_data("endpoints")["partitions"]

    for partition in named:
        for region in partition["regions"]:
            assert partition["partition"] == partition_of(region) == aws.partition_of(region), region


def test_a_region_that_nobody_knows_has_no_partition() -> None:
    """It is then refused as one that is not in the partition of the credentials."""
    assert aws.partition_of("zz-north-1") == ""
