"""`keyimport bulk`: many keys in one go, through KMS's quota, and over every crash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from keyimport.cli.options import broker_options
from keyimport.cli.requests import wrapping_options

if TYPE_CHECKING:
    from keyimport.cli.options import Options

_SETTLING: Final = 60.0
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--journal", type=_FILE, help="What makes it resumable; MANIFEST.journal by default.")
@click.option("--report", type=_FILE, help="Write what became of every row, to a file in .csv or .json.")
@wrapping_options
@click.option(
    "--settling",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=_SETTLING,
    show_default=True,
    help="How long a key must be PendingImport after an import whose answer was lost, until it is sent again.",
)
@broker_options
@click.pass_context
def bulk(
    context: click.Context,
    *,
    manifest: Path,
    journal: Path | None,
    report: Path | None,
    wrapping_algorithm: str,
    wrapping_key_spec: str,
    settling: float,
) -> None:
    """Import key material into every key of MANIFEST, a .csv or .jsonl file.

    The whole manifest is checked before anything is sent. Run the same command again after a crash, ^C or failures:
    what is imported is never sent again. --timeout is of each look at a key; the whole has no limit.

    \b
    Columns: key_id; material and form (raw, pem, pkcs8, hex, base64), or generate (a key spec) and save; valid_to or
    never_expires; import_type, key_material_id, description.
    """  # noqa: D301 -- \b is for click
    from keyimport.bulk.session import Session  # noqa: PLC0415 -- it needs the network, and loads gRPC

    options: Options = context.obj
    session = Session(
        options=options,
        manifest=manifest,
        journal=journal or manifest.with_name(manifest.name + ".journal"),
        report=report,
        wrapping_algorithm=wrapping_algorithm,
        wrapping_key_spec=wrapping_key_spec,
        settling=settling,
    )
    context.exit(session.run())
