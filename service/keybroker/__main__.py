"""`keybroker`: argv to settings to a running broker, and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keybroker.settings import Settings

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
    if arguments.command == "wait":
        return _wait(arguments)
    if arguments.command == "serve":
        # Until the broker listens to it: it would end the process, and whoever sends it wants the newest settings only.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Imported after that, for it takes a while.
    from keybroker.settings import SettingsError  # noqa: PLC0415

    try:
        settings = _load(arguments.config)
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- for the person at the terminal
        return EXIT_BAD_SETTINGS
    if arguments.command == "check-config":
        print(f"{arguments.config}: good")  # noqa: T201 -- as above
        return EXIT_OK
    return _serve(settings, arguments.config)


def _load(path: Path) -> Settings:
    from keybroker.settings import SettingsError, load  # noqa: PLC0415 -- see main

    settings = load(path)
    if settings.kms.use_fips:
        # Only the SDK knows; those who do not ask for it need not wait for it to load.
        from keybroker.home import NoFipsEndpoint, require_fips  # noqa: PLC0415

        try:
            require_fips(settings.kms)
        except NoFipsEndpoint as error:
            raise SettingsError(str(error)) from error
    return settings


def _seal_key() -> int:
    from keybroker.seal import new_key  # noqa: PLC0415 -- the other commands may do without cryptography

    print(new_key())  # noqa: T201 -- as above
    return EXIT_OK


def _wait(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from keybroker.wait import wait  # noqa: PLC0415 -- the other commands may do without gRPC

    tls = (arguments.ca, arguments.certificate, arguments.private_key)
    if any((*tls, arguments.server_name)) and not all(tls):
        print("mutual TLS needs --ca, --certificate and --private-key", file=sys.stderr)  # noqa: T201 -- as above
        return EXIT_BAD_SETTINGS
    try:
        said = wait(
            arguments.target,
            tls=tls if all(tls) else None,
            server_name=arguments.server_name,
            timeout=arguments.timeout,
        )
    except OSError as error:
        print(f"{error.filename}: cannot be read: {error.strerror}", file=sys.stderr)  # noqa: T201 -- as above
        return EXIT_BAD_SETTINGS
    if said is None:
        return EXIT_OK
    print(f"{arguments.target} is not SERVING after {arguments.timeout:g} s: {said}", file=sys.stderr)  # noqa: T201 -- as above
    return EXIT_FAILED


def _seconds(text: str) -> float:
    number = text.removesuffix("s")
    try:
        seconds = float(number)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86400:  # noqa: PLR2004 -- a day
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds such as 60 or 60s")
    return seconds


def _serve(settings: Settings, path: Path) -> int:
    # gRPC's core writes lines of its own to stderr, many for each failed handshake; ours say what matters.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here, so that check-config need load neither gRPC nor, as a rule, the AWS SDK.
    from keybroker.app import App  # noqa: PLC0415
    from keybroker.clock import SystemClock  # noqa: PLC0415
    from keybroker.errors import StartError  # noqa: PLC0415
    from keybroker.settings import load  # noqa: PLC0415
    from keybroker.telemetry import set_up_logging  # noqa: PLC0415

    set_up_logging()

    async def run() -> None:
        await App(settings, SystemClock(), reload=lambda: load(path)).serve()

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
    text = "return when a broker is SERVING: for init containers and health checks"
    waiting = commands.add_parser("wait", help=text, description=text)
    waiting.add_argument("--target", required=True, metavar="ADDRESS", help="unix:PATH or tcp:HOST:PORT")
    waiting.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="60 by default; 0 asks once")
    for name, what in (("ca", "the server's CA"), ("certificate", "the client's"), ("private-key", "the client's")):
        waiting.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"for mutual TLS: {what}, PEM")
    text = "the name in the server's certificate, where it is not the target's: at localhost"
    waiting.add_argument("--server-name", metavar="NAME", help=f"for mutual TLS: {text}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
