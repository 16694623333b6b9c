"""Wrapped key material opened by the openssl command, an implementation that is not ours."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HASHES = {"SHA_1": "sha1", "SHA_256": "sha256"}


def unwrap(wrapped: bytes, *, private_key: Path, algorithm: str) -> bytes:
    """The key material in plain text.

    Args:
        wrapped: what KMS calls EncryptedKeyMaterial.
        private_key: a PEM file.
        algorithm: KMS's word for the wrapping algorithm.
    """
    family, _, digest = algorithm.partition("_SHA_")
    modulus = int(run("rsa", "-in", str(private_key), "-noout", "-modulus").strip().partition(b"=")[2], 16)
    size = (modulus.bit_length() + 7) // 8
    opened = _open_oaep(wrapped[:size], private_key=private_key, digest=HASHES[f"SHA_{digest}"])
    if family == "RSAES_OAEP":
        assert len(wrapped) == size
        return opened
    assert family == "RSA_AES_KEY_WRAP"
    assert len(opened) == 32
    return run("enc", "-d", "-id-aes256-wrap-pad", "-iv", "A65959A6", "-K", opened.hex(), stdin=wrapped[size:])


def run(*arguments: str, stdin: bytes = b"") -> bytes:
    """What openssl writes to standard output."""
    program = shutil.which("openssl")
    assert program is not None
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, check=True).stdout  # noqa: S603 -- only tests call this


def _open_oaep(block: bytes, *, private_key: Path, digest: str) -> bytes:
    options = ["rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}"]
    flags = [flag for option in options for flag in ("-pkeyopt", option)]
    return run("pkeyutl", "-decrypt", "-inkey", str(private_key), *flags, stdin=block)
