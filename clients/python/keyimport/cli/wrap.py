"""`keyimport wrap`: key material wrapped under a set's files, on a machine that needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from keyimport import parameter_files
from keyimport.cli.exits import CommandFailed, Exit
from keyimport.cli.options import Options, output_options
from keyimport.cli.output import printing, remaining, rfc3339, show
from keyimport.cli.sources import DIRECTORY, FILE_OR_STDIN, NEW_FILE, form_options, material_name, read_material
from keyimport.errors import MaterialUnsuitable
from keyimport.files import require_new_file, write_new
from keyimport.material import check_carried, check_kind
from keyimport.wrapping import algorithm_name, spec_name

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    epilog="\b\nkeyimport wrap --parameters ceremony --material key_material.bin --out encrypted_key_material.bin"
)
@click.option(
    "--parameters", type=DIRECTORY, required=True, metavar="DIR", help="The directory that `keyimport get` wrote."
)
@click.option(
    "--material", type=FILE_OR_STDIN, required=True, metavar="FILE", help="The key material; - is standard input."
)
@form_options
@click.option("--out", type=NEW_FILE, required=True, metavar="FILE", help="Where the wrapped key material goes, anew.")
@click.option("--fingerprint", metavar="HEX", help="What `keyimport get` printed: refuse every other public key.")
@output_options
@click.pass_obj
def wrap(
    options: Options,
    /,
    *,
    parameters: Path,
    material: Path,
    form: str,
    passphrase_file: Path | None,
    out: Path,
    fingerprint: str | None,
) -> None:
    """Wrap key material under the set in DIR, without a network.

    The files in DIR must belong together and be valid, and the key material must be what the key takes.
    """
    require_new_file(out)
    stored = parameter_files.load(parameters)
    handed_out = stored.parameters
    if fingerprint is not None and fingerprint.replace(":", "").lower() != handed_out.fingerprint:
        file = parameters / parameter_files.DER
        raise CommandFailed(
            f"{file}: its fingerprint is {handed_out.fingerprint}, not that of --fingerprint",
            code=Exit.SET_REFUSED,
            next_step="Do not wrap under it; find out who changed the files on their way.",
        )
    plain = read_material(material, form=form, passphrase_file=passphrase_file)
    try:
        check_carried(stored.key_spec, handed_out)
        check_kind(plain, stored.key_spec)
        wrapped = handed_out.wrap(plain)
    except MaterialUnsuitable as error:
        raise MaterialUnsuitable(f"{material_name(material)}: {error.message}") from error
    write_new(out, wrapped)
    algorithm, spec = algorithm_name(handed_out.wrapping_algorithm), spec_name(handed_out.wrapping_key_spec)
    valid_to = rfc3339(handed_out.parameters_valid_to)
    rows = {
        "key": handed_out.key_arn,
        "key spec": stored.key_spec or "unknown",
        "wrapped with": f"{algorithm} under {spec}",
        "fingerprint (SHA-256)": handed_out.fingerprint,
        "import before": f"{valid_to}, in {remaining(handed_out.parameters_valid_to)}",
        "written to": f"{out}, {len(wrapped)} bytes",
    }
    data = {
        "key_arn": handed_out.key_arn,
        "key_spec": stored.key_spec or None,
        "wrapping_algorithm": algorithm,
        "wrapping_key_spec": spec,
        "public_key_sha256": handed_out.fingerprint,
        "parameters_valid_to": valid_to,
        "out": str(out),
        "bytes": len(wrapped),
    }
    with printing(f"the wrapped key material is in {out}"):
        show(rows, data, as_json=options.json)
