"""`keyimport status`, `delete` and `discard`: what is known of a key, and what is taken from it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from keyimport import parameter_files
from keyimport.cli.exits import CommandFailed, Exit
from keyimport.cli.options import Options, broker_options
from keyimport.cli.output import printing, rfc3339, show
from keyimport.cli.requests import Word, budget, connection, status_if_allowed
from keyimport.cli.sources import DIRECTORY, FILE, read_small
from keyimport.requests import material_id_fault

if TYPE_CHECKING:
    from pathlib import Path

    from keyimport import DeletedKeyMaterial, KeyImportStatus


@click.command(epilog="\b\nkeyimport status 1234abcd-12ab-34cd-56ef-1234567890ab")
@click.argument("key", type=Word())
@broker_options
@click.pass_obj
def status(options: Options, /, *, key: str) -> None:
    """Show what KMS tells of KEY: its spec, its state, its origin, when its material expires."""
    told = asyncio.run(_status(options, key))
    valid_to = None if told.material_valid_to is None else rfc3339(told.material_valid_to)
    rows = {
        "key": told.key_arn,
        "spec": told.key_spec,
        "state": told.key_state,
        "origin": "EXTERNAL" if told.external_origin else "not EXTERNAL: it takes no imported key material",
        "material expires": valid_to or ("there is none" if told.key_state == "PendingImport" else "never"),
        "multi-Region": "yes: import the same material into each replica" if told.multi_region else "no",
    }
    data = {
        "key_arn": told.key_arn,
        "key_spec": told.key_spec,
        "key_state": told.key_state,
        "external_origin": told.external_origin,
        "material_valid_to": valid_to,
        "multi_region": told.multi_region,
    }
    with printing(f"KMS has told of {told.key_arn}"):
        show(rows, data, as_json=options.json)


@click.command(epilog="\b\nkeyimport delete 1234abcd-12ab-34cd-56ef-1234567890ab")
@click.argument("key", type=Word())
@click.option(
    "--key-material-id",
    type=Word(material_id_fault),
    default="",
    metavar="HEX",
    help="Which material of a symmetric key; the current one.",
)
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@broker_options
@click.pass_obj
def delete(options: Options, /, *, key: str, key_material_id: str, yes: bool) -> None:
    """Delete the imported key material of KEY: it is unusable until the same material is imported again."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--yes is needed: there is no terminal to ask on")
        question = (
            f"Delete the key material of {key!r}? Nothing it encrypted can be decrypted until it is imported again"
        )
        _require_yes(question)
    deleted = asyncio.run(_delete(options, key, key_material_id))
    rows = {"key": deleted.key_arn, "deleted": deleted.key_material_id or "its key material"}
    data = {"key_arn": deleted.key_arn, "key_material_id": deleted.key_material_id or None}
    with printing(f"the key material of {deleted.key_arn} was deleted"):
        show(rows, data, as_json=options.json)


@click.command(epilog="\b\nkeyimport discard --parameters ceremony\nkeyimport discard KEY --token ImportToken.bin")
@click.argument("key", type=Word(), required=False)
@click.option("--token", type=FILE, metavar="FILE", help="With KEY: the set's import token.")
@click.option("--parameters", type=DIRECTORY, metavar="DIR", help="The directory that `keyimport get` wrote.")
@broker_options
@click.pass_obj
def discard(options: Options, /, *, key: str | None, token: Path | None, parameters: Path | None) -> None:
    """Report a parameter set as spent or suspect: the broker hands it to nobody any more."""
    if (parameters is None) != (key is not None and token is not None) or (parameters and (key or token)):
        raise click.UsageError("give --parameters, or KEY and --token")
    if parameters is not None:
        stored = parameter_files.load(parameters).parameters
        key, content = stored.key_arn, stored.import_token
    else:
        assert token is not None  # noqa: S101 -- seen to above
        content = read_small(token)
    key = key or ""
    asyncio.run(_discard(options, key, content))
    arn = key if key.startswith("arn:") else None  # the broker does not tell it
    with printing("the set was discarded"):
        show({"key": key, "discarded": "the set"}, {"key_arn": arn, "discarded": True}, as_json=options.json)


def _require_yes(question: str) -> None:
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:  # ^C, or the end of the input
        raise CommandFailed("interrupted; nothing was deleted", code=Exit.INTERRUPTED) from None
    raise CommandFailed("nothing was deleted", code=Exit.DECLINED)


async def _status(options: Options, key: str) -> KeyImportStatus:
    async with connection(options) as client:
        return await client.status(key)


async def _delete(options: Options, key: str, key_material_id: str) -> DeletedKeyMaterial:
    left = budget(options.seconds)
    async with connection(options) as client:
        await status_if_allowed(client, key, timeout=left())
        try:
            return await client.delete_imported_key_material(key, key_material_id=key_material_id, timeout=left())
        except asyncio.CancelledError:
            raise CommandFailed(
                "interrupted while the deletion was under way, so that its outcome is unknown",
                code=Exit.INTERRUPTED,
                next_step="Look at the key with `keyimport status` before anything else.",
            ) from None


async def _discard(options: Options, key: str, token: bytes) -> None:
    async with connection(options) as client:
        await client.discard(key, token)
