"""Credentials for mutual TLS, looked at first: gRPC only says that nothing can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from keyimport.cli.sources import read_small

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes


def credentials_of(files: Mapping[str, Path]) -> grpc.ChannelCredentials:
    """The credentials in the files of --ca, --certificate and --private-key.

    Raises:
        click.BadParameter: a file is not what it should be, or certificate and private key do not belong together.
        CommandFailed: a file is far too large.
        OSError: a file cannot be read.
    """
    ca, chain, key = (read_small(files[flag]) for flag in ("--ca", "--certificate", "--private-key"))
    _certificates("--ca", ca)
    leaf = _certificates("--certificate", chain)[0]
    try:
        private_key = load_pem_private_key(key, None)
    except TypeError as error:
        raise click.BadParameter("the private key is encrypted", param_hint="--private-key") from error
    except ValueError as error:
        raise click.BadParameter("the file holds no private key as PEM", param_hint="--private-key") from error
    if _spki(private_key.public_key()) != _spki(leaf.public_key()):
        raise click.BadParameter("it is not the private key of --certificate", param_hint="--private-key")
    return grpc.ssl_channel_credentials(ca, key, chain)


def _certificates(flag: str, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise click.BadParameter("the file holds no certificate as PEM", param_hint=flag) from error


def _spki(key: PublicKeyTypes | CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
