"""An import done by hand, with AWS's client alone: what a test compares the broker's with."""

from collections.abc import Awaitable
from typing import Any

from botocore.exceptions import ClientError

from tests.kms_wrapping import wrap


async def get(kms: Any, arn: str, algorithm: str = "RSAES_OAEP_SHA_256", spec: str = "RSA_2048") -> dict[str, Any]:
    """A parameter set for the key."""
    answer = await kms.get_parameters_for_import(KeyId=arn, WrappingAlgorithm=algorithm, WrappingKeySpec=spec)
    return dict(answer)


async def put(
    kms: Any, parameters: dict[str, Any], material: bytes, algorithm: str = "RSAES_OAEP_SHA_256", **more: Any
) -> dict[str, Any]:
    """Wrap the material and import it, for ever if `more` says nothing else."""
    answer = await kms.import_key_material(
        KeyId=parameters["KeyId"],
        ImportToken=parameters["ImportToken"],
        EncryptedKeyMaterial=wrap(parameters["PublicKey"], algorithm, material),
        **({"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"} | more),
    )
    return dict(answer)


async def describe(kms: Any, arn: str) -> dict[str, Any]:
    """The key's metadata."""
    return dict((await kms.describe_key(KeyId=arn))["KeyMetadata"])


async def refusal(call: Awaitable[Any]) -> str:
    """The code a call is refused with, empty if it is not."""
    try:
        await call
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""
