"""A parameter set as a directory of files, which is read back only if they belong together and are still valid."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from keyimport import wrapping
from keyimport.errors import KeyImportError, WrappingKeyRejected
from keyimport.files import write_new_directory
from keyimport.requests import text_fault
from keyimport.v1.key_import_pb2 import ParametersSource
from keyimport.wrapping import Parameters

if TYPE_CHECKING:
    from pathlib import Path

DER: Final = "WrappingPublicKey.der"
PEM: Final = "WrappingPublicKey.pem"
TOKEN: Final = "ImportToken.bin"  # noqa: S105 -- a file's name
FACTS: Final = "parameters.json"

# A token has about 3 KiB, and KMS takes 6; whatever is far larger is no file of ours.
_LARGEST: Final = 64 * 1024


class ParameterFilesRefused(KeyImportError):
    """The files of a directory are no valid parameter set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredParameters:
    """A parameter set that was kept in files.

    Attributes:
        parameters: the set, checked as it was when it came; its source is unspecified.
        key_spec: the key's spec in KMS's words; empty where nobody could tell.
    """

    parameters: Parameters
    key_spec: str


def save(directory: Path, parameters: Parameters, *, key_spec: str) -> None:
    """Write a set as four files into a directory that is new or empty, `FACTS` last: without it there is no set.

    Args:
        directory: where; mode 0700, its files 0600.
        parameters: the set.
        key_spec: the key's spec in KMS's words; empty if it is not known.

    Raises:
        FileExistsError: there is something in the directory already.
        OSError: it cannot be written; nothing is left of it.
    """
    facts = {
        "key_arn": parameters.key_arn,
        "key_spec": key_spec or None,
        "wrapping_algorithm": wrapping.algorithm_name(parameters.wrapping_algorithm),
        "wrapping_key_spec": wrapping.spec_name(parameters.wrapping_key_spec),
        "public_key_sha256": parameters.fingerprint,
        "import_token_sha256": hashlib.sha256(parameters.import_token).hexdigest(),
        "parameters_valid_to": parameters.parameters_valid_to.isoformat().replace("+00:00", "Z"),
    }
    files = {
        DER: parameters.public_key,
        PEM: _pem(parameters.public_key),
        TOKEN: parameters.import_token,
        FACTS: (json.dumps(facts, indent=2) + "\n").encode(),
    }
    write_new_directory(directory, files)


def load(directory: Path) -> StoredParameters:
    """Read a set back.

    Raises:
        ParameterFilesRefused: a file is missing or damaged, is of another set, or the set has expired.
        OSError: a file cannot be read.
    """
    facts = _facts(directory)
    public_key, token = _read(directory, DER), _read(directory, TOKEN)
    _require(hashlib.sha256(public_key).hexdigest() == facts["public_key_sha256"], directory, DER)
    _require(hashlib.sha256(token).hexdigest() == facts["import_token_sha256"], directory, TOKEN)
    try:
        algorithm = wrapping.algorithm_number(facts["wrapping_algorithm"])
        spec = wrapping.spec_number(facts["wrapping_key_spec"])
        valid_to = datetime.fromisoformat(facts["parameters_valid_to"])
        in_utc = valid_to.astimezone(UTC)
        wrapping.check_public_key(public_key, spec)
    except WrappingKeyRejected as error:
        raise ParameterFilesRefused(f"{directory / DER}: {error.message}") from error
    except (ValueError, OverflowError) as error:
        raise ParameterFilesRefused(f"{directory / FACTS}: an algorithm, spec or time in it is none") from error
    _require(_read(directory, PEM) == _pem(public_key), directory, PEM)
    if valid_to.utcoffset() is None:
        raise ParameterFilesRefused(f"{directory / FACTS}: parameters_valid_to has no timezone")
    if in_utc <= datetime.now(UTC):
        raise ParameterFilesRefused(f"{directory}: the set expired at {facts['parameters_valid_to']}")
    parameters = Parameters(
        key_arn=facts["key_arn"],
        public_key=public_key,
        import_token=token,
        parameters_valid_to=in_utc,
        wrapping_algorithm=algorithm,
        wrapping_key_spec=spec,
        public_key_sha256=hashlib.sha256(public_key).digest(),
        source=ParametersSource.PARAMETERS_SOURCE_UNSPECIFIED,
    )
    return StoredParameters(parameters=parameters, key_spec=facts["key_spec"])


def _facts(directory: Path) -> dict[str, str]:
    if not directory.is_dir():
        raise NotADirectoryError(20, "there is no such directory", str(directory))
    path = directory / FACTS
    try:
        read: Any = json.loads(_read(directory, FACTS))
        facts = {
            name: read[name]
            for name in (
                "key_arn",
                "wrapping_algorithm",
                "wrapping_key_spec",
                "public_key_sha256",
                "import_token_sha256",
                "parameters_valid_to",
            )
        }
        facts["key_spec"] = read.get("key_spec") or ""
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ParameterFilesRefused(f"{path}: it is not what `keyimport get` wrote") from error
    if not all(isinstance(value, str) and not text_fault(value) for value in facts.values()):
        raise ParameterFilesRefused(f"{path}: it is not what `keyimport get` wrote")
    return facts


def _read(directory: Path, name: str) -> bytes:
    try:
        with (directory / name).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise ParameterFilesRefused(f"{directory / name}: the file is missing") from error
    if len(content) > _LARGEST:
        raise ParameterFilesRefused(f"{directory / name}: the file is far too large")
    return content


def _require(agrees: bool, directory: Path, name: str) -> None:  # noqa: FBT001 -- private, and read as a sentence
    if not agrees:
        raise ParameterFilesRefused(f"{directory / name}: the file is of another set than {FACTS}")


def _pem(public_key: bytes) -> bytes:
    return load_der_public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
