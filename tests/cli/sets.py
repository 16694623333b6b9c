"""Parameter sets in files, as `keyimport get` writes them, without a broker."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from keyimport import Parameters, ParametersSource, WrappingAlgorithm, WrappingKeySpec
from keyimport.parameter_files import save
from tests.client.fake_broker import KEY_ARN

if TYPE_CHECKING:
    from pathlib import Path

OAEP = "RSAES_OAEP_SHA_256"
KEY_WRAP = "RSA_AES_KEY_WRAP_SHA_256"


def make_set(
    directory: Path,
    public_key: bytes,
    *,
    key_spec: str = "SYMMETRIC_DEFAULT",
    algorithm: str = OAEP,
    spec: str = "RSA_4096",
    lifetime: timedelta = timedelta(hours=24),
) -> Parameters:
    """Write a set of a public key, with a token of its own, into a directory."""
    parameters = Parameters(
        key_arn=KEY_ARN,
        public_key=public_key,
        import_token=secrets.token_bytes(1024),
        parameters_valid_to=datetime.now(UTC) + lifetime,
        wrapping_algorithm=WrappingAlgorithm.Value(f"WRAPPING_ALGORITHM_{algorithm}"),
        wrapping_key_spec=WrappingKeySpec.Value(f"WRAPPING_KEY_SPEC_{spec}"),
        public_key_sha256=hashlib.sha256(public_key).digest(),
        source=ParametersSource.PARAMETERS_SOURCE_UNSPECIFIED,
    )
    save(directory, parameters, key_spec=key_spec)
    return parameters
