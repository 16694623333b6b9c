"""Finding out at start whose account and partition the broker's credentials belong to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keybroker import aws, errors
from keybroker.kms_errors import map_error
from keybroker.model import Home

if TYPE_CHECKING:
    from keybroker.settings import KmsSettings

_CALL_LIMIT = 10.0


class WrongAccount(errors.StartError):
    """The credentials belong elsewhere than the settings say; trying again would not help."""


async def find_home(settings: KmsSettings) -> Home:
    """Asks STS.

    Raises:
        KmsUnavailable, BrokerCredentials: worth trying again.
        WrongAccount
    """
    try:
        async with aws.client("sts", region=settings.regions[0], endpoint=settings.sts) as sts:
            async with asyncio.timeout(_CALL_LIMIT):
                partition, account = aws.parse_identity(await sts.get_caller_identity())
    except Exception as error:
        mapped = map_error(error)
        if not isinstance(mapped, errors.KmsUnavailable | errors.BrokerCredentials):
            mapped = errors.KmsUnavailable("GetCallerIdentity failed", retry_after=5.0)
        raise mapped from error
    if settings.account not in (None, account):
        raise WrongAccount(f"kms.account: is {settings.account}, but the credentials belong to {account}")
    if foreign := [region for region in settings.regions if aws.partition_of(region) != partition]:
        raise WrongAccount(f"kms.regions: {foreign[0]} is not in {partition}, where the credentials belong")
    return Home(partition=partition, account=account, regions=settings.regions)
