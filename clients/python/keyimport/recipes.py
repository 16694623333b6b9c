"""The commands that wrap key material under one very parameter set, to be run as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keyimport import wrapping
from keyimport.parameter_files import DER, PEM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyimport.wrapping import Parameters

MATERIAL: Final = "key_material.bin"
"""The file that the commands take the key material from, as KMS takes it."""
WRAPPED: Final = "encrypted_key_material.bin"
"""The file that they leave the wrapped key material in."""

PURPOSES: Final[Mapping[str, str]] = {
    "wrap": "Wrap with keyimport; this needs no network.",
    "openssl": "Or with openssl 3:",
    "pkcs11_tool": "Or in an HSM whose secret key 02 may be extracted, with its module in the place of MODULE:",
    "import": "Then import, and choose --never-expires or --valid-to TIME:",
}
"""What each script is for, in their order."""


def scripts(parameters: Parameters, directory: str, *, key_spec: str = "", arguments: str = "") -> Mapping[str, str]:
    """Shell scripts for a set, by the names that `PURPOSES` explains; they are run as they stand, even by halves.

    Args:
        parameters: the set.
        directory: where its files are, as the shell is to find it.
        key_spec: the key's spec in KMS's words; empty if it is not known.
        arguments: options of `keyimport` itself, as the shell takes them, with a space before.
    """
    algorithm = wrapping.algorithm_name(parameters.wrapping_algorithm)
    digest = "sha1" if algorithm.endswith("_SHA_1") else "sha256"
    folder = Path(directory)
    pem, der = (shlex.quote(str(folder / name)) for name in (PEM, DER))
    quoted = shlex.quote(directory)
    steps = {"wrap": f"keyimport wrap --parameters {quoted} --material {MATERIAL} --out {WRAPPED}"}
    if algorithm.startswith("RSAES_OAEP"):
        steps["openssl"] = f"( umask 077 && {_oaep(pem, digest, MATERIAL, WRAPPED)} )"
        if not key_spec.startswith(("RSA_", "ECC_", "SM2")):
            steps["pkcs11_tool"] = _pkcs11_tool(der, digest)
    else:
        steps["openssl"] = _aes_key_wrap(pem, digest)
    steps["import"] = f"keyimport{arguments} import --parameters {quoted} --wrapped {WRAPPED} --never-expires"
    return steps


def _oaep(pem: str, digest: str, material: str, wrapped: str) -> str:
    # Left out, the hashes are SHA-1, and KMS cannot open the result of a SHA_256 set.
    return (
        f"openssl pkeyutl -encrypt -pubin -inkey {pem} "
        f"-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{digest} -pkeyopt rsa_mgf1_md:{digest} "
        f"-in {material} -out {wrapped}"
    )


def _aes_key_wrap(pem: str, digest: str) -> str:
    aes_key = "$(od -An -v -tx1 aes_key.bin | tr -d ' \\n')"
    steps = (
        "umask 077",
        "trap 'rm -f aes_key.bin wrapped_aes_key.bin wrapped_key_material.bin' EXIT",
        "openssl rand -out aes_key.bin 32",
        _oaep(pem, digest, "aes_key.bin", "wrapped_aes_key.bin"),
        # The initial value of RFC 5649.
        f'openssl enc -e -id-aes256-wrap-pad -iv A65959A6 -K "{aes_key}" -in {MATERIAL} -out wrapped_key_material.bin',
        f"cat wrapped_aes_key.bin wrapped_key_material.bin > {WRAPPED}",
    )
    warning = "# Where nobody else can log in: -K shows the AES key to whoever lists this machine's processes."
    # In a shell of its own, which leaves the umask as it was, and no key behind wherever it ends.
    return f"{warning}\n( " + " &&\n  ".join(steps) + " )"


def _pkcs11_tool(der: str, digest: str) -> str:
    # It wraps secret keys only, and RSA_AES_KEY_WRAP not at all.
    names = {"sha1": ("SHA-1", "MGF1-SHA1"), "sha256": ("SHA256", "MGF1-SHA256")}
    hash_name, mgf = names[digest]
    lines = [
        "# pkcs11-tool of OpenSC up to 0.26 cannot wrap with OAEP: it ends with CKR_ARGUMENTS_BAD.",
        f"pkcs11-tool --module MODULE --login --write-object {der} --type pubkey --id 01 --usage-wrap",
    ]
    lines.append(
        f"pkcs11-tool --module MODULE --login --wrap --mechanism RSA-PKCS-OAEP --hash-algorithm {hash_name} "
        f"--mgf {mgf} --id 01 --application-id 02 --output-file {WRAPPED}"
    )
    return "\n".join(lines)
