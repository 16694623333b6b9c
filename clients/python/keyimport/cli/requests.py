"""What several commands ask of a broker: the choice of a wrapping, an expiry, a key's spec, within one timeout."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from keyimport.cli.output import note
from keyimport.errors import CallerNotAuthorized, KeyImportError
from keyimport.requests import text_fault
from keyimport.wrapping import algorithm_name, spec_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from keyimport import KeyImportClient, KeyImportStatus
    from keyimport.cli.options import Options

_Command = TypeVar("_Command", bound="Callable[..., Any]")

# RSAES_PKCS1_V1_5 and SM2PKE are not offered: nothing here wraps with them.
_ALGORITHMS: Final = [algorithm_name(number) for number in (3, 5, 2, 4)]  # type: ignore[arg-type]
_SPECS: Final = [spec_name(number) for number in (3, 2, 1)]  # type: ignore[arg-type]
_LONGEST_VALIDITY: Final = timedelta(days=365)
_MOMENT: Final = 1.5
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours"}


class Word(click.ParamType[str]):
    """What is sent to the broker as it is: text, and not bytes that are none in this locale.

    Args:
        fault: why the broker or KMS would refuse a text besides; empty if they would not.
    """

    name = "text"

    def __init__(self, fault: Callable[[str], str] = lambda _text: "") -> None:
        self._fault = fault

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text."""
        word = str(value)
        if fault := text_fault(word) or self._fault(word):
            self.fail(f"it {fault}", param, ctx)
        return word


class Moment(click.ParamType[datetime]):
    """A time within the next 365 days, as RFC 3339 writes it, with its timezone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The time in UTC."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time such as 2030-01-31T12:00:00Z", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"{value!r} has no timezone; put Z after it for UTC", param, ctx)
        if moment <= datetime.now(UTC):
            self.fail(f"{value!r} is past", param, ctx)
        # KMS's limit, told before key material is generated and saved for it.
        if moment > datetime.now(UTC) + _LONGEST_VALIDITY:
            self.fail(f"{value!r} is more than 365 days ahead", param, ctx)
        return moment.astimezone(UTC)


class Span(click.ParamType[timedelta]):
    """A time span, such as 90s, 30m or 2h."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span as a timedelta."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,6})([smh])", value)
        if not found:
            self.fail(f"{value!r} is no time span such as 90s, 30m or 2h", param, ctx)
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


def wrapping_options(command: _Command) -> _Command:
    """Give a command `wrapping_algorithm` and `wrapping_key_spec`, each a word of KMS's or UNSPECIFIED."""
    spec = click.option(
        "--wrapping-key-spec",
        type=click.Choice(_SPECS),
        default=None,
        callback=_unspecified,
        help="The size of the wrapping key; left to the broker by default.",
    )
    algorithm = click.option(
        "--wrapping-algorithm",
        type=click.Choice(_ALGORITHMS),
        default=None,
        callback=_unspecified,
        help="How the key material is wrapped; left to the broker by default.",
    )
    return algorithm(spec(command))


def budget(seconds: float) -> Callable[[], float]:
    """A function saying how many seconds are left, so that several calls share one timeout."""
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


@asynccontextmanager
async def connection(options: Options) -> AsyncIterator[KeyImportClient]:
    """An open client of the broker, which people are told of if it has to be waited for."""
    say = partial(note, as_json=options.json)
    async with options.client() as client, telling_of_the_wait(client, seconds=options.seconds, say=say):
        yield client


@asynccontextmanager
async def telling_of_the_wait(
    client: KeyImportClient, *, seconds: float, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Let it be known if no broker answers the first call of this block for a moment, rather than be silent for long.

    Args:
        client: open.
        seconds: how long an answer is waited for.
        say: shows a line to people.
    """

    async def tell() -> None:
        await asyncio.sleep(_MOMENT)
        if not client.connected:
            say(f"no broker answers yet; waiting up to {seconds:g} s")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()


async def status_if_allowed(client: KeyImportClient, key: str, *, timeout: float) -> KeyImportStatus | None:  # noqa: ASYNC109 -- the deadline that gRPC tells the broker
    """The key's status; None where this caller may not ask for it, or the broker is too old to tell.

    Asked before a key is changed, it also finds out that the broker is out of reach, while nothing is sent yet that
    could have an unknown outcome.
    """
    try:
        return await client.status(key, timeout=timeout)
    except CallerNotAuthorized:
        return None
    except KeyImportError as error:
        if error.code is not None and error.code.name == "UNIMPLEMENTED":
            return None
        raise


def _unspecified(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    del context, parameter
    return value or "UNSPECIFIED"
