"""All commands under one name, loaded when they are called, and their errors as one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from keyimport.cli.exits import MEANINGS, CommandFailed, Exit, Failure, failure_of
from keyimport.cli.options import broker_options
from keyimport.cli.output import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS: Final = {
    "get": "keyimport.cli.get:get",
    "wrap": "keyimport.cli.wrap:wrap",
    "import": "keyimport.cli.importing:import_",
    "status": "keyimport.cli.keys:status",
    "delete": "keyimport.cli.keys:delete",
    "discard": "keyimport.cli.keys:discard",
    "bulk": "keyimport.bulk:bulk",
}


class _Commands(click.Group):
    """Loads a command when it is called: `wrap` loads nothing that the others need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExit codes:\n" + "\n".join(f"{code.value:>5}  {meaning}" for code, meaning in MEANINGS.items()),
)
@click.version_option(package_name="keyimport", message="keyimport %(version)s")
@broker_options
def keyimport() -> None:
    """Import your own key material into AWS KMS, through keybroker.

    The key material is wrapped on this machine and leaves it only wrapped. KEY is a key id or key ARN.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Whatever goes wrong is one line on standard error."""
    as_json = "--json" in arguments
    # What gRPC writes to standard error by itself, such as of a handshake, is in the one line already.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        outcome = keyimport.main(args=list(arguments), prog_name="keyimport", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.USAGE
    except click.ClickException as error:
        failure = _usage(error)
    except click.Abort:
        failure = Failure(code=Exit.INTERRUPTED, message="interrupted", next_step="")
    except BrokenPipeError:
        # Nobody reads any more; Python must not find out once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.INTERNAL
    except Exception as error:  # noqa: BLE001 -- no trace-back: it could show what must not be shown
        failure = failure_of(error)
    else:
        return outcome if isinstance(outcome, int) else Exit.OK
    with contextlib.suppress(OSError):
        tell(failure, as_json=as_json)
    return failure.code


def _usage(error: click.ClickException) -> Failure:
    message = error.format_message().strip().removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "keyimport"
    return failure_of(CommandFailed(message, code=Exit.USAGE, next_step=f"Try `{path} --help`."))
