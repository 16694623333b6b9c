"""Finding out at start whose account and partition the broker's credentials belong to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keybroker import aws, errors
from keybroker.kms_errors import map_error
from keybroker.model import Home

if TYPE_CHECKING:
    from keybroker.settings_kms import KmsSettings

_CALL_LIMIT = 10.0


class WrongAccount(errors.StartError):
    """The credentials belong elsewhere than the settings say; trying again would not help."""


class NoFipsEndpoint(errors.StartError):
    """What the settings ask for is not there; without this the broker would look for it for ever."""


async def find_home(settings: KmsSettings) -> tuple[Home, aws.Session]:
    """Asks STS. The session is for all that follows: its credentials are those that STS has been asked about.

    Raises:
        KmsUnavailable, BrokerCredentials: worth trying again.
        WrongAccount, NoFipsEndpoint
    """
    if settings.use_fips:
        require_fips(settings)
    region, fips, dualstack = settings.regions[0], settings.use_fips, settings.use_dualstack
    session, ours = aws.Session(region), True
    try:
        async with asyncio.timeout(_CALL_LIMIT):
            await session.require_credentials()
            ours = False
            async with session.client(
                "sts", region=region, endpoint=settings.sts, fips=fips, dualstack=dualstack
            ) as sts:
                partition, account = aws.parse_identity(await sts.get_caller_identity())
    except Exception as error:
        mapped = errors.BrokerCredentials(retry_after=5.0) if ours else map_error(error)
        if not isinstance(mapped, errors.KmsUnavailable | errors.BrokerCredentials):
            mapped = errors.KmsUnavailable("GetCallerIdentity failed", retry_after=5.0)
        raise mapped from error
    if settings.account not in (None, account):
        raise WrongAccount(f"kms.account: is {settings.account}, but the credentials belong to {account}")
    if foreign := [region for region in settings.regions if aws.partition_of(region) != partition]:
        raise WrongAccount(f"kms.regions: {foreign[0]} is not in {partition}, where the credentials belong")
    return Home(partition=partition, account=account, regions=settings.regions), session


def require_fips(settings: KmsSettings) -> None:
    """Refuses `use_fips` where there is nothing to use.

    Raises:
        NoFipsEndpoint
    """
    for region in settings.regions:
        if not aws.has_fips("kms", region):
            raise NoFipsEndpoint(f"kms.use_fips: the AWS SDK knows no FIPS endpoint of KMS in {region}")
    if not settings.sts and not aws.has_fips("sts", settings.regions[0]):
        # No falling back in silence: whoever must use FIPS decides by himself what may be without.
        raise NoFipsEndpoint(
            f"kms.use_fips: the AWS SDK knows no FIPS endpoint of STS in {settings.regions[0]}; name the endpoint to"
            " ask in kms.sts_endpoint"
        )
