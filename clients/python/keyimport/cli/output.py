"""What a command says: tables on a terminal, lines elsewhere, one JSON object where it is asked for."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyimport.cli.exits import CommandFailed, Exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from keyimport.cli.exits import Failure


def printable(text: str) -> str:
    """The text on one line, without what could steer a terminal: it may come from a broker or a file name."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


class _Console(Console):
    """A console that ends no process because nobody reads what it says."""

    def on_broken_pipe(self) -> None:
        """Go on, where rich would exit."""


def console(stream: TextIO) -> Console:
    """A rich console that takes nothing for markup."""
    return _Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)


def rfc3339(moment: datetime) -> str:
    """A time in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def remaining(until: datetime) -> str:
    """How long it is until then, to the minute, such as ``23 h 59 min``."""
    minutes = max(until - datetime.now(UTC), timedelta()) // timedelta(minutes=1)
    return f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def printing(done: str, *, code: Exit = Exit.NOT_TOLD) -> Iterator[None]:
    """Print a result in this block: where that fails, what was done is told all the same.

    Args:
        done: a clause saying what was done.
        code: how the process then ends.

    Raises:
        CommandFailed: standard output takes no more.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Python must not find out once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = f"{done}; only the result could not be printed: {error.strerror}"
        raise CommandFailed(message, code=code, next_step="Do not do it again for that.") from error


def show(
    rows: Mapping[str, str],
    data: Mapping[str, object],
    *,
    as_json: bool,
    scripts: Mapping[str, str] | None = None,
) -> None:
    """The result of a command, on standard output; inside `printing`.

    Args:
        rows: what people read, by its name.
        data: what programs read.
        as_json: whether programs read it.
        scripts: for people, commands to be run next, by what they are for; they are printed exactly as they are run.
    """
    if as_json:
        print(json.dumps(data))  # noqa: T201 -- this is where commands print
        return
    if sys.stdout.isatty():
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(Text(name), Text(printable(value)))
        Console(markup=False, highlight=False, emoji=False).print(table)
    else:
        for name, value in rows.items():
            print(f"{name}: {printable(value)}")  # noqa: T201 -- as above
    for title, script in (scripts or {}).items():
        print(f"\n# {title}\n{script}")  # noqa: T201 -- as above


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Many things of one kind, on standard output: a table on a terminal, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(printable(cell) for cell in row))  # noqa: T201 -- as above
        return
    drawn = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    Console(markup=False, highlight=False, emoji=False).print(drawn)


def note(text: str, *, as_json: bool) -> None:
    """Something to know beside the result, on standard error; programs are not told, and nothing fails for it."""
    if not as_json:
        with suppress(OSError):
            console(sys.stderr).print(Text(printable(text)))


def tell(failure: Failure, *, as_json: bool, **more: object) -> None:
    """A failure, in one line on standard error; programs get what there is more of it beside the error."""
    if as_json:
        told = asdict(failure) | {
            "code": failure.code.value,
            "kind": failure.code.name,
            "metadata": failure.metadata or {},
        }
        print(json.dumps({"error": told} | more), file=sys.stderr, flush=True)  # noqa: T201 -- as above
        return
    line = Text("keyimport: ", style="bold red")
    line.append(printable(f"{failure.message.rstrip('.')}. {failure.next_step}"), style="default not bold")
    console(sys.stderr).print(line)
