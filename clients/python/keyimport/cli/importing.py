"""`keyimport import`: key material into a key, wrapped before or wrapped here."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from keyimport import parameter_files
from keyimport.cli.exits import CommandFailed, Exit
from keyimport.cli.options import Options, broker_options
from keyimport.cli.output import note, printing, rfc3339, show
from keyimport.cli.requests import Moment, Word, budget, connection, status_if_allowed, wrapping_options
from keyimport.cli.sources import (
    DIRECTORY,
    FILE,
    FILE_OR_STDIN,
    NEW_FILE,
    form_options,
    material_name,
    read_material,
    read_small,
)
from keyimport.errors import KeyImportError, MaterialUnsuitable, OutcomeUnknown
from keyimport.files import require_new_file, write_new
from keyimport.material import check_kind, check_wrapped, generate
from keyimport.requests import description_fault, material_id_fault
from keyimport.v1.key_import_pb2 import ImportType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from datetime import datetime
    from pathlib import Path

    from keyimport import ImportedKeyMaterial, KeyImportClient, KeyImportStatus

_IMPORT_TYPES = {
    "new": ImportType.IMPORT_TYPE_NEW_KEY_MATERIAL,
    "existing": ImportType.IMPORT_TYPE_EXISTING_KEY_MATERIAL,
}
_NO_MATERIAL = "PendingImport"
_KEY = "KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What is to be imported, from where, and how; what was not said is None or empty.

    `given` is all of it that was said on the command line, by its flag.
    """

    given: Mapping[str, Any]
    key: str
    parameters: Path | None
    wrapped: Path | None
    material: Path | None
    form: str
    passphrase_file: Path | None
    generate: bool
    save: Path | None
    wrapping: Mapping[str, Any]
    choices: Mapping[str, Any]


@click.command(
    "import",
    epilog="\b\nkeyimport import --parameters ceremony --wrapped encrypted_key_material.bin --never-expires\n"
    "keyimport import KEY --material key.pem --form pem --valid-to 2030-01-31T12:00:00Z\n"
    "keyimport import KEY --generate --save key_material.bin --never-expires",
)
@click.argument("key", type=Word(), required=False, default="")
@click.option("--parameters", type=DIRECTORY, metavar="DIR", help="With --wrapped: the set it was wrapped under.")
@click.option("--wrapped", type=FILE, metavar="FILE", help="Key material that was wrapped before.")
@click.option(
    "--material", type=FILE_OR_STDIN, metavar="FILE", help="Key material for KEY, wrapped here; - is standard input."
)
@form_options
@click.option("--generate", is_flag=True, help="Make fresh key material of the kind that KEY takes.")
@click.option("--save", type=NEW_FILE, metavar="FILE", help="With --generate: where it is kept, before it is imported.")
@click.option("--valid-to", type=Moment(), metavar="TIME", help="When it expires, such as 2030-01-31T12:00:00Z.")
@click.option("--never-expires", is_flag=True, help="It never does.")
@wrapping_options
@click.option("--import-type", type=click.Choice(list(_IMPORT_TYPES)), help="New or known to a symmetric key.")
@click.option(
    "--key-material-id",
    type=Word(material_id_fault),
    default="",
    metavar="HEX",
    help="Which known material of a symmetric key.",
)
@click.option(
    "--description",
    type=Word(description_fault),
    default="",
    metavar="TEXT",
    help="A note kept with a symmetric key's material.",
)
@broker_options
@click.pass_obj
def import_(
    options: Options,
    /,
    *,
    valid_to: datetime | None,
    never_expires: bool,
    wrapping_algorithm: str,
    wrapping_key_spec: str,
    import_type: str | None,
    key_material_id: str,
    description: str,
    **sources: Any,
) -> None:
    """Import key material: wrapped before, from a file, or made here."""
    if (valid_to is not None) == never_expires:
        raise click.UsageError("choose exactly one of --valid-to and --never-expires")
    order = _Order(
        **sources,
        given=_given(click.get_current_context()),
        wrapping={"wrapping_algorithm": wrapping_algorithm, "wrapping_key_spec": wrapping_key_spec},
        choices={
            "valid_to": valid_to,
            "never_expires": never_expires,
            "import_type": _IMPORT_TYPES[import_type] if import_type else ImportType.IMPORT_TYPE_UNSPECIFIED,
            "key_material_id": key_material_id,
            "key_material_description": description,
        },
    )
    imported = asyncio.run(_way(order)(options, order))
    expiry = "never" if valid_to is None else rfc3339(valid_to)
    rows = {"key": imported.key_arn, "key material id": imported.key_material_id, "expires": expiry}
    data = {
        "key_arn": imported.key_arn,
        "key_material_id": imported.key_material_id or None,
        "valid_to": None if valid_to is None else expiry,
        "public_key_sha256": imported.public_key_sha256.hex() or None,
        "saved_to": str(order.save) if order.save else None,
    }
    if order.save:
        rows["kept in"] = str(order.save)
    with printing(f"the key material was imported into {imported.key_arn}"):
        show({name: value for name, value in rows.items() if value}, data, as_json=options.json)


def _given(context: click.Context) -> Mapping[str, Any]:
    return {
        parameter.opts[0] if isinstance(parameter, click.Option) else _KEY: context.params[parameter.name]
        for parameter in context.command.params
        if parameter.name in context.params
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }


def _way(order: _Order) -> Callable[[Options, _Order], Coroutine[Any, Any, ImportedKeyMaterial]]:
    """The one of three ways that the options describe; UsageError if they describe none, or more than one heeds."""
    sources = order.given.keys() & {_KEY, "--parameters", "--wrapped", "--material", "--generate", "--save"}
    reading, wrapping = {"--form", "--passphrase-file"}, {"--wrapping-algorithm", "--wrapping-key-spec"}
    if sources == {"--parameters", "--wrapped"}:
        way, unheeded = _import_wrapped, reading | wrapping
    elif sources == {_KEY, "--material"}:
        way, unheeded = _import_material, set()
    elif sources == {_KEY, "--generate", "--save"}:
        way, unheeded = _import_generated, reading
    else:
        raise click.UsageError("give --parameters and --wrapped, or KEY and --material, or KEY, --generate and --save")
    for flag in sorted(order.given.keys() & unheeded):
        raise click.UsageError(f"{flag} does not go with {' and '.join(sorted(sources - {_KEY}))}")
    return way


async def _import_wrapped(options: Options, order: _Order) -> ImportedKeyMaterial:
    assert order.parameters is not None  # noqa: S101 -- `_way` has seen to it
    assert order.wrapped is not None  # noqa: S101 -- as above
    parameters = parameter_files.load(order.parameters).parameters
    wrapped = read_small(order.wrapped, code=Exit.MATERIAL_REFUSED)
    try:
        check_wrapped(wrapped, parameters)
    except MaterialUnsuitable as error:
        raise CommandFailed(
            f"{order.wrapped}: {error.message}",
            code=Exit.MATERIAL_REFUSED,
            next_step="Give the bytes that were wrapped under this very set, not base64 and not the key in plain text.",
        ) from error
    left = budget(options.seconds)
    async with connection(options) as client:
        await status_if_allowed(client, parameters.key_arn, timeout=left())
        imported = await _sent(
            client.import_wrapped(parameters.key_arn, wrapped, parameters.import_token, **order.choices, timeout=left())
        )
    return replace(imported, public_key_sha256=parameters.public_key_sha256)


async def _import_material(options: Options, order: _Order) -> ImportedKeyMaterial:
    assert order.material is not None  # noqa: S101 -- as above
    material = read_material(order.material, form=order.form, passphrase_file=order.passphrase_file)
    left = budget(options.seconds)
    async with connection(options) as client:
        status = await status_if_allowed(client, order.key, timeout=left())
        try:
            check_kind(material, status.key_spec if status else "")
            return await _send(client, status, order, material, left())
        except MaterialUnsuitable as error:
            raise MaterialUnsuitable(f"{material_name(order.material)}: {error.message}") from error


async def _import_generated(options: Options, order: _Order) -> ImportedKeyMaterial:
    assert order.save is not None  # noqa: S101 -- as above
    require_new_file(order.save)
    left = budget(options.seconds)
    async with connection(options) as client:
        status = await client.status(order.key, timeout=left())
        new = order.choices["import_type"] == ImportType.IMPORT_TYPE_NEW_KEY_MATERIAL
        if not status.external_origin or (status.key_state != _NO_MATERIAL and not new):
            origin = "EXTERNAL" if status.external_origin else "not EXTERNAL"
            raise CommandFailed(
                f"{order.key}: the key is {status.key_state} and its origin {origin}, so that it takes no fresh "
                "key material",
                code=Exit.KEY_REFUSED,
                next_step="Only --import-type new puts further material into a symmetric key that has some.",
            )
        material = generate(status.key_spec)
        # First on disk, then into the key: what is kept nowhere can never be imported again.
        write_new(order.save, material)
        note(f"The key material is kept in {order.save}; whoever reads it has the key.", as_json=options.json)
        try:
            return await _send(client, status, order, material, left())
        except KeyImportError as error:
            key, kept = shlex.quote(order.key), f"The key material stays in {order.save}"
            if isinstance(error, OutcomeUnknown):
                step = f"{kept}; look at the key with `keyimport{options.arguments} status {key}` before anything else."
            else:
                step = f"{kept}; import it with `keyimport{options.arguments} import {key}{_once_more(order)}`."
            error.next_step = step  # type: ignore[attr-defined]
            raise


def _once_more(order: _Order) -> str:
    """What was said of the import, as the shell takes it, but for material that is there now."""
    given = {"--material": order.save} | {
        flag: value for flag, value in order.given.items() if flag not in (_KEY, "--generate", "--save")
    }
    return "".join(
        f" {flag}" if value is True else f" {flag} {shlex.quote(str(value))}" for flag, value in given.items()
    )


async def _send(
    client: KeyImportClient, status: KeyImportStatus | None, order: _Order, material: bytes, seconds: float
) -> ImportedKeyMaterial:
    key = status.key_arn if status else order.key
    return await _sent(client.import_key_material(key, material, **order.wrapping, **order.choices, timeout=seconds))


async def _sent(call: Awaitable[ImportedKeyMaterial]) -> ImportedKeyMaterial:
    """The outcome of an import that may be under way when somebody interrupts it."""
    try:
        return await call
    except asyncio.CancelledError:
        raise CommandFailed(
            "interrupted while an import was under way, so that its outcome is unknown",
            code=Exit.INTERRUPTED,
            next_step="Look at the key with `keyimport status` before anything else.",
        ) from None
