"""The options that every command has, before its name or after it, and the connection that they describe."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyimport import KeyImportClient

DEFAULT_TARGET: Final = "unix:/run/keybroker/keybroker.sock"

_Command = TypeVar("_Command", bound="Callable[..., Any]")
_WEEK: Final = 7 * 24 * 3600
_TLS: Final = ("ca", "certificate", "private_key")


class _Seconds(click.ParamType[float]):
    """A time span of at most a week."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= _WEEK:  # which NaN is not, either
            self.fail(f"{value!r} is no number of seconds between 0 and {_WEEK}", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was said about output and connection.

    Attributes:
        json: whether a program reads the output.
        target: ``unix:PATH``, ``tcp:HOST:PORT`` or ``HOST:PORT``; None for the default.
        ca: for mutual TLS, the file of the certificates the broker's is checked with, PEM.
        certificate: the caller's certificate chain, PEM.
        private_key: the caller's private key, PEM.
        timeout: seconds for the whole command; None where nothing was said.
    """

    json: bool = False
    target: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    timeout: float | None = None

    @property
    def seconds(self) -> float:
        """The timeout: 30 s where nothing was said."""
        return 30.0 if self.timeout is None else self.timeout

    @property
    def arguments(self) -> str:
        """The options of the connection as a shell takes them, with a space before; empty for the default."""
        said = {"--target": self.target} | {_flag(name): getattr(self, name) for name in _TLS}
        return "".join(f" {name} {shlex.quote(str(value))}" for name, value in said.items() if value is not None)

    def client(self) -> KeyImportClient:
        """A client of the broker, to be opened with ``async with``; UsageError where the options do not agree."""
        from keyimport import KeyImportClient  # noqa: PLC0415 -- `keyimport wrap` needs no network, and loads no gRPC
        from keyimport.cli.tls import credentials_of  # noqa: PLC0415 -- as above

        files = {_flag(name): getattr(self, name) for name in _TLS}
        missing = [flag for flag, file in files.items() if file is None]
        if missing and len(missing) < len(files):
            raise click.UsageError(f"--ca, --certificate and --private-key belong together; {missing[0]} is missing")
        credentials = None if missing else credentials_of(files)
        try:
            return KeyImportClient(self.target or DEFAULT_TARGET, credentials=credentials, timeout=self.seconds)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--target") from error


def output_options(command: _Command) -> _Command:
    """Give a command --json; it finds the `Options` in `click.pass_obj`."""
    return _option("--json", is_flag=True, help="Print one JSON object, errors on standard error as well.")(command)


def broker_options(command: _Command) -> _Command:
    """Give a command --json and the options of the connection; it finds the `Options` in `click.pass_obj`."""
    file = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
    for option in (
        _option("--timeout", type=_Seconds(), help="How long all of it may take, 30 by default."),
        _option("--private-key", type=file, envvar="KEYIMPORT_PRIVATE_KEY", help="The caller's private key, PEM."),
        _option("--certificate", type=file, envvar="KEYIMPORT_CERTIFICATE", help="The caller's certificate, PEM."),
        _option("--ca", type=file, envvar="KEYIMPORT_CA", help="Whom the broker's certificate is from, PEM."),
        _option(
            "--target",
            envvar="KEYIMPORT_TARGET",
            help=f"The broker: unix:PATH or tcp:HOST:PORT, {DEFAULT_TARGET} by default.",
        ),
    ):
        command = option(command)
    return output_options(command)


def _option(name: str, **settings: Any) -> Callable[[_Command], _Command]:
    return click.option(
        name, expose_value=False, callback=_keep, default=None, show_envvar="envvar" in settings, **settings
    )


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """What stands nearest to the command's name counts, and the environment only where nothing was said."""
    options = context.ensure_object(Options)
    name = parameter.name or ""
    said = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if value is not None and (said or getattr(options, name) in (None, False)):
        context.obj = replace(options, **{name: value})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
