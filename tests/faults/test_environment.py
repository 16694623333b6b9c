"""The environment cannot bend the way to KMS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyimport.v1 import key_import_pb2 as pb
from tests.kms_double import kms_double

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]


@pytest.mark.parametrize(
    "variable",
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL_STS"],
)
async def test_no_proxy_or_endpoint_from_the_environment(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Pointed elsewhere by the environment, the broker asks the endpoint of its settings all the same."""
    async with kms_double() as evil:
        monkeypatch.setenv(variable, evil.endpoint)
        arn = double.add_key()
        async with run_broker() as broker:
            answer = await broker.stub.GetParametersForImport(
                pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
            )

    assert answer.key_arn == arn
    assert evil.calls == []


async def test_sdk_retries_cannot_be_turned_on(
    run_broker: RunBroker, double: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_MAX_ATTEMPTS or a retry mode in the environment spends no further token."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "legacy")
    arn = double.add_key()
    double.lie("GetParametersForImport", "throttle", times=1)
    async with run_broker() as broker:
        with pytest.raises(Exception, match="throttled"):
            await broker.stub.GetParametersForImport(
                pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)
            )

    assert double.count("GetParametersForImport") == 1
