"""`keybroker`: argv to settings to a running broker, and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keybroker import settings as settings_file

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0 done; 1 the broker could not start, or failed; 2 the settings or the command line are wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "seal-key":
        return _seal_key()
    try:
        settings = settings_file.load(arguments.config)
    except settings_file.SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- for the person at the terminal
        return EXIT_BAD_SETTINGS
    if arguments.command == "check-config":
        print(f"{arguments.config}: good")  # noqa: T201 -- as above
        return EXIT_OK
    return _serve(settings, arguments.config)


def _seal_key() -> int:
    from keybroker.seal import new_key  # noqa: PLC0415 -- the other commands may do without cryptography

    print(new_key())  # noqa: T201 -- as above
    return EXIT_OK


def _serve(settings: settings_file.Settings, path: Path) -> int:
    # gRPC's core writes lines of its own to stderr, many for each failed handshake; ours say what matters.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here, so that check-config needs neither gRPC nor the AWS SDK to load.
    from keybroker.app import App  # noqa: PLC0415
    from keybroker.clock import SystemClock  # noqa: PLC0415
    from keybroker.errors import StartError  # noqa: PLC0415
    from keybroker.telemetry import set_up_logging  # noqa: PLC0415

    set_up_logging()

    async def run() -> None:
        await App(settings, SystemClock(), reload=lambda: settings_file.load(path)).serve()

    try:
        asyncio.run(run())
    except StartError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- as above
        return EXIT_FAILED
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keybroker", description="Brokers key material import into AWS KMS.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("serve", "serve the broker until SIGTERM"), ("check-config", "say whether a file is good")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, metavar="FILE", help="the settings, in TOML")
    text = "print a new seal key for the fleet's store; keep it in a file only the broker can read"
    commands.add_parser("seal-key", help=text, description=text)
    return parser


if __name__ == "__main__":
    sys.exit(main())
