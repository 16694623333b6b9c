"""`keyimport get`: a parameter set as files, and the commands that use them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from keyimport import parameter_files, recipes
from keyimport.cli.options import Options, broker_options
from keyimport.cli.output import note, printing, remaining, rfc3339, show
from keyimport.cli.requests import Span, Word, budget, connection, wrapping_options
from keyimport.cli.sources import NEW_FILE
from keyimport.errors import KeyImportError
from keyimport.files import require_new_directory
from keyimport.v1.key_import_pb2 import Sharing
from keyimport.wrapping import algorithm_name, spec_name

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from keyimport.wrapping import Parameters

# The spec only makes the checks of `keyimport wrap` sharper, so that little time is spent on it.
_STATUS_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What set is asked for."""

    key: str
    wrapping_algorithm: str
    wrapping_key_spec: str
    min_remaining: timedelta | None
    exclusive: bool


@click.command(epilog="\b\nkeyimport get 1234abcd-12ab-34cd-56ef-1234567890ab --out ceremony --exclusive")
@click.argument("key", type=Word())
@click.option("--out", "directory", type=NEW_FILE, required=True, metavar="DIR", help="A directory, new or empty.")
@wrapping_options
@click.option("--min-remaining", type=Span(), metavar="SPAN", help="How long it is valid at least: 90s, 30m, 2h.")
@click.option("--exclusive", is_flag=True, help="A set that nobody else is given; it spends KMS quota.")
@broker_options
@click.pass_obj
def get(
    options: Options,
    /,
    *,
    key: str,
    directory: Path,
    wrapping_algorithm: str,
    wrapping_key_spec: str,
    min_remaining: timedelta | None,
    exclusive: bool,
) -> None:
    """Get a parameter set for KEY: a wrapping public key and its import token, as files.

    DIR gets WrappingPublicKey.der, WrappingPublicKey.pem, ImportToken.bin and parameters.json, for your eyes only. What
    is printed then wraps key material under this very set, and imports it.
    """
    require_new_directory(directory)
    asked = _Asked(
        key=key,
        wrapping_algorithm=wrapping_algorithm,
        wrapping_key_spec=wrapping_key_spec,
        min_remaining=min_remaining,
        exclusive=exclusive,
    )
    parameters, key_spec = asyncio.run(_get(options, asked))
    parameter_files.save(directory, parameters, key_spec=key_spec)
    if not key_spec:
        note("The key's spec is not known, so that the key material can be checked less closely.", as_json=options.json)
    _show(options, directory, parameters, key_spec)


async def _get(options: Options, asked: _Asked) -> tuple[Parameters, str]:
    """The set, and the key's spec or an empty string."""
    left = budget(options.seconds)
    async with connection(options) as client:
        parameters = await client.get_parameters(
            asked.key,
            wrapping_algorithm=asked.wrapping_algorithm,
            wrapping_key_spec=asked.wrapping_key_spec,
            min_remaining_validity=asked.min_remaining,
            sharing=Sharing.SHARING_EXCLUSIVE if asked.exclusive else Sharing.SHARING_UNSPECIFIED,
            timeout=left(),
        )
        try:
            status = await client.status(parameters.key_arn, timeout=min(left(), _STATUS_SECONDS))
        except KeyImportError:
            return parameters, ""
        return parameters, status.key_spec


def _show(options: Options, directory: Path, parameters: Parameters, key_spec: str) -> None:
    algorithm = algorithm_name(parameters.wrapping_algorithm)
    spec = spec_name(parameters.wrapping_key_spec)
    valid_to = rfc3339(parameters.parameters_valid_to)
    scripts = recipes.scripts(parameters, str(directory), key_spec=key_spec, arguments=options.arguments)
    rows = {
        "key": parameters.key_arn,
        "key spec": key_spec or "unknown",
        "wrapping algorithm": algorithm,
        "wrapping key spec": spec,
        "fingerprint (SHA-256)": parameters.fingerprint,
        "valid until": f"{valid_to}, for {remaining(parameters.parameters_valid_to)}",
        "directory": str(directory),
    }
    data = {
        "key_arn": parameters.key_arn,
        "key_spec": key_spec or None,
        "wrapping_algorithm": algorithm,
        "wrapping_key_spec": spec,
        "public_key_sha256": parameters.fingerprint,
        "parameters_valid_to": valid_to,
        "directory": str(directory),
        "scripts": scripts,
    }
    with printing(f"the set is in {directory}"):
        told = {recipes.PURPOSES[name]: script for name, script in scripts.items()}
        show(rows, data, as_json=options.json, scripts=told)
