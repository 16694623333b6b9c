"""The broker's own credentials fail, in whatever way the SDK has for it: nobody else is blamed, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore import exceptions as sdk

from keybroker import errors
from keybroker.clock import SystemClock
from keybroker.home import find_home
from keybroker.kms import AwsKms
from keybroker.settings_kms import KmsSettings
from keyimport.v1 import key_import_pb2 as pb
from tests.conftest import refusal_of
from tests.fake_kms import key_arn
from tests.kms_wrapping import wrap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Handed:
    """What hands the credentials out, by the SDK's credential_process."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "credentials.json"
        self.config = directory / "aws-config"
        self.config.write_text(f"[default]\ncredential_process = cat {self._file}\n")

    def now(self, lifetime: timedelta = timedelta(minutes=1)) -> int:
        """Good ones; those that live for less than ten minutes are renewed for each request. When they end."""
        expires = datetime.now(UTC).replace(microsecond=0) + lifetime
        keys = {"AccessKeyId": "111122223333", "SecretAccessKey": "s", "SessionToken": "t"}
        self._file.write_text(json.dumps({"Version": 1, "Expiration": expires.isoformat()} | keys))
        return int(expires.timestamp())

    def nothing(self) -> None:
        """An empty answer, which is no JSON: the SDK raises ValueError."""
        self._file.write_text("")


@pytest.fixture
def handed(aws_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handed:
    """Credentials that a program hands out, and none in the environment."""
    _ = aws_credentials
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    given = Handed(tmp_path)
    given.now()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(given.config))
    return given


def _get(arn: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


async def test_credentials_that_are_gone_cost_no_set(handed: Handed, run_broker: RunBroker, double: KmsDouble) -> None:
    """An import is refused as not sent, and its set stays good: it is done with it once there are credentials again."""
    async with run_broker() as broker:
        answer = await broker.stub.GetParametersForImport(_get(double.add_key()))
        wanted = pb.ImportKeyMaterialRequest(
            key_id=answer.key_arn,
            import_token=answer.import_token,
            encrypted_key_material=wrap(answer.public_key, "RSAES_OAEP_SHA_256", bytes(32)),
            never_expires=True,
        )
        handed.nothing()
        calls = len(double.calls)
        refused = await refusal_of(broker.stub.ImportKeyMaterial(wanted))
        unserved = await refusal_of(broker.stub.GetParametersForImport(_get(double.add_key())))
        sent = len(double.calls) - calls
        kept = await broker.stub.GetParametersForImport(_get(answer.key_arn))
        handed.now()
        await broker.stub.ImportKeyMaterial(wanted)

    assert (refused.reason, unserved.reason) == ("BROKER_CREDENTIALS", "BROKER_CREDENTIALS")
    assert sent == 0
    assert kept.import_token == answer.import_token


async def test_what_one_region_renews_is_renewed_for_all(
    handed: Handed, run_broker: RunBroker, double: KmsDouble
) -> None:
    """A Region that nobody asks for has no credentials of its own to run out."""
    async with run_broker(kms={"regions": ["us-east-1", "eu-west-1"]}) as broker:

        def told() -> float | None:
            return broker.app._ground.metrics.registry.get_sample_value("keybroker_credentials_expiry_seconds")

        before = told()
        renewed = handed.now(timedelta(hours=1))
        await broker.stub.GetParametersForImport(_get(double.add_key()))
        after = told()

    assert before
    assert before < renewed == after


async def _nothing_happens() -> None:
    await asyncio.Event().wait()


async def _nothing_is_sent(**_: Any) -> None:
    pytest.fail("a request was sent")


@pytest.mark.parametrize(
    "error",
    [
        sdk.ProfileNotFound(profile="p"),
        sdk.ConfigParseError(path="p"),
        sdk.InvalidConfigError(error_msg="m"),
        sdk.ParamValidationError(report="an empty web identity token"),
        sdk.ReadTimeoutError(endpoint_url="u"),
        sdk.EndpointConnectionError(endpoint_url="u", error="e"),
        PermissionError("m"),
        FileNotFoundError("m"),
        KeyError("m"),
        RuntimeError("m"),
        None,
    ],
    ids=repr,
)
async def test_whatever_the_providers_raise_is_about_credentials(error: Exception | None) -> None:
    """Of the same classes as KMS's failures, and yet nothing was sent; a provider that hangs is no better."""

    async def fail() -> None:
        if error is None:
            await _nothing_happens()
        else:
            raise error

    require: Callable[[], Awaitable[None]] = fail
    client = type("Client", (), {"delete_imported_key_material": staticmethod(_nothing_is_sent)})
    kms = AwsKms(client=client, require_credentials=require, clock=SystemClock(), call_limit=0.1)

    with pytest.raises(errors.BrokerCredentials) as raised:
        await kms.delete_imported_key_material(key_arn(), None)

    assert not raised.value.unanswered


@pytest.mark.parametrize("fault", ["no such profile", "no config", "no token", "an empty token", "nothing at all"])
async def test_credentials_that_cannot_be_had_at_the_start(
    handed: Handed, double: KmsDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    """The operator is sent to the credentials, and not to the network."""
    token = tmp_path / "token"
    if fault == "no such profile":
        monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    elif fault == "no config":
        handed.config.write_text("what is this")
    elif fault.endswith("token"):
        if fault == "an empty token":
            token.touch()
        handed.config.write_text("")
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/keybroker")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    else:
        handed.config.write_text("")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(errors.BrokerCredentials):
        await find_home(KmsSettings(regions=("us-east-1",), endpoint=double.endpoint))

    assert double.calls == []
