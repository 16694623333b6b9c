"""Import key material into AWS KMS through keybroker, without ever handing it over in plain text.

```python
from keyimport import KeyImportClient, TryLater

async with KeyImportClient("unix:/run/keybroker/keybroker.sock") as client:
    try:
        imported = await client.import_key_material(key_id, material, never_expires=True)
    except TryLater as error:
        print("not now; again in", error.retry_after)
    else:
        print(imported.key_arn, imported.public_key_sha256.hex())
```
"""

import importlib
import typing

__all__ = [
    "AliasNotAllowed",
    "BatchNews",
    "BatchParameters",
    "BatchProgress",
    "BatchRefusal",
    "BrokerCredentials",
    "BrokerFault",
    "CallerNotAuthorized",
    "CallerRateExceeded",
    "CallerRefused",
    "CallerUnauthenticated",
    "DeletedKeyMaterial",
    "ErrorReason",
    "ForeignAccount",
    "ImportTokenExpired",
    "ImportTokenInvalid",
    "ImportTokenRefused",
    "ImportType",
    "ImportedKeyMaterial",
    "Internal",
    "KeyIdMalformed",
    "KeyImportClient",
    "KeyImportError",
    "KeyImportStatus",
    "KeyMaterialMismatch",
    "KeyMaterialRefused",
    "KeyMaterialUnreadable",
    "KeyNotExternal",
    "KeyNotFound",
    "KeyRefused",
    "KeyStateIncompatible",
    "KmsBadResponse",
    "KmsDeniedBroker",
    "KmsThrottled",
    "KmsUnavailable",
    "MaterialUnsuitable",
    "OutcomeUnknown",
    "Parameters",
    "ParametersSource",
    "QuotaQueueFull",
    "QuotaWaitExceedsDeadline",
    "RegionNotServed",
    "RequestMalformed",
    "RequestRefused",
    "Sharing",
    "TryLater",
    "WrappingAlgorithm",
    "WrappingAlgorithmDeprecated",
    "WrappingAlgorithmNotAllowed",
    "WrappingKeyRejected",
    "WrappingKeySpec",
    "WrappingKeySpecNotAllowed",
    "WrappingRefused",
    "WrappingUnsuitable",
    "check_material",
    "check_public_key",
    "wrap",
]

# For `help(keyimport.errors)`; it loads nothing else.
from keyimport import errors as errors

if typing.TYPE_CHECKING:
    from keyimport.client import KeyImportClient
    from keyimport.errors import (
        AliasNotAllowed,
        BrokerCredentials,
        BrokerFault,
        CallerNotAuthorized,
        CallerRateExceeded,
        CallerRefused,
        CallerUnauthenticated,
        ForeignAccount,
        ImportTokenExpired,
        ImportTokenInvalid,
        ImportTokenRefused,
        Internal,
        KeyIdMalformed,
        KeyImportError,
        KeyMaterialMismatch,
        KeyMaterialRefused,
        KeyMaterialUnreadable,
        KeyNotExternal,
        KeyNotFound,
        KeyRefused,
        KeyStateIncompatible,
        KmsBadResponse,
        KmsDeniedBroker,
        KmsThrottled,
        KmsUnavailable,
        MaterialUnsuitable,
        OutcomeUnknown,
        QuotaQueueFull,
        QuotaWaitExceedsDeadline,
        RegionNotServed,
        RequestMalformed,
        RequestRefused,
        TryLater,
        WrappingAlgorithmDeprecated,
        WrappingAlgorithmNotAllowed,
        WrappingKeyRejected,
        WrappingKeySpecNotAllowed,
        WrappingRefused,
        WrappingUnsuitable,
    )
    from keyimport.results import (
        BatchNews,
        BatchParameters,
        BatchProgress,
        BatchRefusal,
        DeletedKeyMaterial,
        ImportedKeyMaterial,
        KeyImportStatus,
    )
    from keyimport.v1.key_import_pb2 import (
        ErrorReason,
        ImportType,
        ParametersSource,
        Sharing,
        WrappingAlgorithm,
        WrappingKeySpec,
    )
    from keyimport.wrapping import Parameters, check_material, check_public_key, wrap

# Where the names are, the lightest first: whoever wraps needs no network, and so loads no gRPC.
_MODULES: typing.Final = ("errors", "results", "v1.key_import_pb2", "wrapping", "client")


def __getattr__(name: str) -> object:
    # Loaded when it is first asked for: the command line is to begin before what it may not need.
    if name in __all__:
        for module in _MODULES:
            value = getattr(importlib.import_module(f"keyimport.{module}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
