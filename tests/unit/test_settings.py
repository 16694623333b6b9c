"""The settings file: what it means, and how a mistake in it is told."""

from __future__ import annotations

import re
import signal
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keybroker.__main__ import EXIT_BAD_SETTINGS, EXIT_OK, main
from keybroker.settings import SettingsError, load, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

GOOD = """
[[listeners]]
address = "unix:/run/keybroker/keybroker.sock"
mode = "0660"
caller = "local"

[[listeners]]
address = "tcp:0.0.0.0:7443"
tls = { certificate = "server.pem", private_key = "server.key", client_ca = "clients.pem" }

[[listeners]]
address = "tcp:127.0.0.1:7080"
plaintext = true
caller = "dev"

[kms]
regions = ["us-east-1"]
account = "111122223333"
endpoint = "http://127.0.0.1:4566"
requests_per_second = 0.25
queue = 1000

[parameters]
min_remaining = "1h"
max_entries = 10000
reuse = "until-import"
supersede = true

[policy]
wrapping_algorithms = ["RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_256"]
wrapping_key_specs = ["RSA_3072", "RSA_4096", "RSA_2048"]

[[callers]]
id = "spiffe://corp.example/ns/payments/*"
keys = ["arn:aws:kms:us-east-1:111122223333:key/*"]
operations = ["GetParametersForImport", "ImportKeyMaterial"]

[store]
url = "rediss://cache.internal:6379"
seal_keys = ["seal-2026-11.key"]
fleet_size = 3

[ops]
address = "127.0.0.1:9090"

[audit]
file = "-"
"""

SMALLEST: dict[str, Any] = {
    "listeners": [{"address": "unix:/run/k.sock", "caller": "local"}],
    "kms": {"regions": ["us-east-1"]},
}
UNIX = {"address": "unix:/run/k.sock", "caller": "local"}
TLS = {"certificate": "a", "private_key": "b", "client_ca": "c"}
VPCE = "https://vpce-0a1b2c3d4e5f-x1y2z3.kms.{}.vpce.amazonaws.com"
STORE = {"url": "rediss://cache:6379", "seal_keys": ["k"], "fleet_size": 3}

# What is put over the smallest settings, and the line it is refused with: its path, and a part of the sentence.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"listeners": []}, "listeners: .*at least 1"),
    ({"kms": {}}, "kms.regions: is missing"),
    ({"kmss": {}}, "kmss: is no setting; did you mean kms?"),
    (
        {"kms": {"regions": ["us-east-1"], "request_per_second": 1}},
        "kms.request_per_second: .*did you mean requests_per",
    ),
    ({"listeners": [UNIX | {"adress": "x"}]}, r"listeners\[0\].adress: is no setting; did you mean address"),
    ({"listeners": [{"address": "unix:/run/k.sock"}]}, r"listeners\[0\]: caller is missing"),
    ({"listeners": [UNIX | {"address": "unix:run/k.sock"}]}, r"listeners\[0\].address: .*absolute path"),
    ({"listeners": [UNIX | {"address": "unix:@abstract"}]}, r"listeners\[0\].address: .*absolute path"),
    ({"listeners": [UNIX | {"address": "unix:\0abstract"}]}, r"listeners\[0\].address: .*absolute path"),
    ({"listeners": [UNIX | {"address": "unix:/" + "x" * 107}]}, r"listeners\[0\].address: .*107 bytes"),
    ({"listeners": [UNIX | {"address": "/run/k.sock"}]}, r'listeners\[0\].address: must be "unix:/PATH" or'),
    ({"listeners": [UNIX | {"address": "tcp:localhost"}]}, r"listeners\[0\].address: must be"),
    ({"listeners": [UNIX | {"address": "tcp:localhost:65536", "plaintext": True}]}, r"listeners\[0\].address: .*65535"),
    ({"listeners": [UNIX | {"mode": "660x"}]}, r"listeners\[0\].mode: must be octal"),
    ({"listeners": [UNIX | {"mode": 432}]}, r"listeners\[0\].mode: should be a valid string, not 432"),
    ({"listeners": [UNIX | {"plaintext": True}]}, r"listeners\[0\]: plaintext is for tcp"),
    ({"listeners": [UNIX | {"tls": TLS}]}, r"listeners\[0\]: tls is for tcp"),
    ({"listeners": [UNIX | {"address": "tcp:127.0.0.1:1"}]}, r"listeners\[0\]: a tcp listener needs tls"),
    ({"listeners": [UNIX | {"address": "tcp:0.0.0.0:1", "plaintext": True}]}, r"listeners\[0\]: .*loopback"),
    ({"listeners": [UNIX | {"address": "tcp:10.0.0.1:1", "plaintext": True}]}, r"listeners\[0\]: .*loopback"),
    ({"listeners": [UNIX | {"address": "tcp:evil.example:1", "plaintext": True}]}, r"listeners\[0\]: .*loopback"),
    (
        {"listeners": [UNIX | {"address": "tcp:0.0.0.0:1", "tls": TLS}]},
        r"listeners\[0\]: caller has no place beside tls",
    ),
    (
        {"listeners": [{"address": "tcp:0.0.0.0:1", "tls": TLS | {"client_ca": ""}}]},
        r"listeners\[0\].tls.client_ca: must",
    ),
    (
        {"listeners": [{"address": "tcp:0.0.0.0:1", "tls": TLS | {"minimum_version": "1.1"}}]},
        r"listeners\[0\].tls.minimum_version: should be '1.2' or '1.3'",
    ),
    ({"listeners": [{"address": "tcp:0.0.0.0:1", "tls": {}}]}, r"listeners\[0\].tls.certificate: is missing"),
    ({"kms": {"regions": []}}, "kms.regions: .*at least 1"),
    ({"kms": {"regions": "us-east-1"}}, "kms.regions: should be a valid list"),
    ({"kms": {"regions": ["us-east-1", "us-east-1"]}}, "kms.regions: names a Region twice"),
    (
        {"kms": {"regions": ["us-east-1", "cn-north-1"]}},
        "kms.regions: holds us-east-1 of aws and cn-north-1 of aws-cn: no credentials are for both",
    ),
    ({"kms": {"regions": ["evil.com/#"]}}, "kms.regions: holds 'evil.com/#', which is no Region"),
    ({"kms": {"regions": ["us-east-1"], "account": 111122223333}}, "kms.account: should be a valid string"),
    ({"kms": {"regions": ["us-east-1"], "account": "1111"}}, "kms.account: must be the 12 digits"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "http://kms.internal"}}, "kms.endpoint: must be https"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "kms.internal"}}, "kms.endpoint: must be a URL"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "https://a@b"}}, "kms.endpoint: must be a URL"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "https://kms.internal:65536"}}, "kms.endpoint: must be a URL"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "https://kms.internal:0"}}, "kms.endpoint: must be a URL"),
    ({"kms": {"regions": ["us-east-1"], "endpoint": "https://[::1"}}, "kms.endpoint: must be a URL"),
    ({"kms": {"regions": ["us-east-1"], "sts_endpoint": "http://sts"}}, "kms.sts_endpoint: must be https"),
    ({"otel": {"endpoint": "collector:4317"}}, "otel.endpoint: must be a URL"),
    ({"otel": {"endpoint": "https://collector:99999"}}, "otel.endpoint: must be a URL"),
    ({"otel": {"endpoint": "http://collector:4317"}}, "otel.endpoint: must be https"),
    ({"otel": {"endpoint": "https://collector:4318/v1/traces"}}, "otel.endpoint: must have no path"),
    (
        {"kms": {"regions": ["us-east-1"], "endpoint": VPCE.format("us-west-2")}},
        "kms.endpoint: is the endpoint of us-west-2, which refuses what is signed for us-east-1",
    ),
    (
        {"kms": {"regions": ["us-east-1", "us-west-2"], "endpoint": VPCE.format("us-east-1")}},
        "kms.endpoint: is the endpoint of us-east-1, which refuses what is signed for us-west-2",
    ),
    (
        {"kms": {"regions": ["cn-north-1"], "endpoint": "https://kms.cn-northwest-1.amazonaws.com.cn"}},
        "kms.endpoint: is the endpoint of cn-northwest-1",
    ),
    (
        {"kms": {"regions": ["us-east-1"], "sts_endpoint": "https://sts-fips.us-east-2.api.aws"}},
        "kms.sts_endpoint: is the endpoint of us-east-2",
    ),
    (
        {"kms": {"regions": ["us-east-1"], "endpoint": VPCE.format("us-east-1"), "use_fips": True}},
        "kms: use_fips and use_dualstack choose among AWS's own endpoints",
    ),
    (
        {"kms": {"regions": ["us-east-1"], "endpoint": "http://127.0.0.1:1", "use_dualstack": True}},
        "kms: use_fips and use_dualstack choose among AWS's own endpoints",
    ),
    ({"kms": {"regions": ["us-east-1"], "use_fips": "yes"}}, "kms.use_fips: should be a valid boolean"),
    (
        {"kms": {"regions": ["us-east-1"], "requests_per_second": 0}},
        "kms.requests_per_second: .*greater than or equal to 0.001",
    ),
    (
        {"kms": {"regions": ["us-east-1"], "requests_per_second": 1e-300}},
        "kms.requests_per_second: .*greater than or equal to 0.001",
    ),
    ({"kms": {"regions": ["us-east-1"], "requests_per_second": float("nan")}}, "kms.requests_per_second: "),
    ({"kms": {"regions": ["us-east-1"], "requests_per_second": float("inf")}}, "kms.requests_per_second: "),
    ({"kms": {"regions": ["us-east-1"], "requests_per_second": "1"}}, "kms.requests_per_second: "),
    ({"kms": {"regions": ["us-east-1"], "queue": 0}}, "kms.queue: .*greater than or equal to 1"),
    ({"kms": {"regions": ["us-east-1"], "queue": 1.5}}, "kms.queue: should be a valid integer"),
    ({"parameters": {"min_remaining": 3600}}, 'parameters.min_remaining: must be a duration such as "90s"'),
    ({"parameters": {"min_remaining": "1 hour"}}, "parameters.min_remaining: must be a duration"),
    ({"parameters": {"min_remaining": "24h"}}, "parameters.min_remaining: .*less than or equal to 82800"),
    ({"parameters": {"max_entries": 0}}, "parameters.max_entries: "),
    ({"parameters": {"reuse": "always"}}, "parameters.reuse: should be 'until-import' or 'until-expiry'"),
    ({"parameters": {"supersede": "yes"}}, "parameters.supersede: should be a valid boolean"),
    ({"policy": {"wrapping_algorithms": ["RSAES_PKCS1_V1_5"]}}, "policy.wrapping_algorithms: cannot hold RSAES_PKCS1"),
    ({"policy": {"wrapping_algorithms": ["ROT13"]}}, r"policy.wrapping_algorithms\[0\]: should be 'RSAES_PKCS1_V1_5'"),
    ({"policy": {"wrapping_algorithms": []}}, "policy.wrapping_algorithms: .*at least 1"),
    ({"policy": {"wrapping_key_specs": ["RSA_1024"]}}, r"policy.wrapping_key_specs\[0\]: should be 'RSA_2048'"),
    ({"callers": [{"id": "a", "keys": ["*"], "operations": ["DiscardParameters"]}]}, r"callers\[0\].keys: holds '\*'"),
    ({"callers": [{"id": "a", "keys": ["alias/x"], "operations": ["DiscardParameters"]}]}, r"callers\[0\].keys: holds"),
    ({"callers": [{"id": "a", "keys": [], "operations": []}]}, r"callers\[0\].keys: .*at least 1"),
    (
        {"callers": [{"id": "", "keys": ["arn:aws:kms:*:*:key/*"], "operations": ["Get"]}]},
        r"callers\[0\].operations\[0\]: ",
    ),
    ({"limits": {"connections": 0}}, "limits.connections: "),
    ({"limits": {"lookups_per_second": 5000}}, "limits.lookups_per_second: .*less than or equal to 2000"),
    ({"audit": {"file": ""}}, "audit.file: must be the path of a file"),
    ({"audit": {"file": "a\0b"}}, "audit.file: must be the path of a file"),
    ({"store": STORE | {"ca": "a\0b"}}, "store.ca: must be the path of a file"),
    ({"ops": {"address": "9090"}}, 'ops.address: must be "HOST:PORT"'),
    ({"ops": {"address": "127.0.0.1:99999"}}, 'ops.address: must be "HOST:PORT"'),
    ({"store": STORE | {"url": "redis://cache:6379"}}, "store.url: must begin with rediss"),
    ({"store": STORE | {"url": "rediss://user:secret@cache"}}, "store.url: must be .*without user or password"),
    ({"store": STORE | {"url": "rediss+sentinel://a:1,b:2"}}, "store.url: names a service"),
    ({"store": STORE | {"url": "rediss://a:1,b:2"}}, "store.url: names several hosts"),
    ({"store": STORE | {"url": "rediss+cluster://a:1,b:2/c"}}, "store.url: names a service"),
    ({"store": STORE | {"url": "http://cache"}}, "store.url: must be"),
    ({"store": STORE | {"seal_keys": []}}, "store.seal_keys: .*at least 1"),
    ({"store": STORE | {"fleet_size": 0}}, "store.fleet_size: "),
    ({"store": {"url": "rediss://cache"}}, "store.seal_keys: is missing"),
]


def test_the_whole_file_means_what_it_says() -> None:
    """Every section of the documented example is taken."""
    settings = parse(tomllib.loads(GOOD), Path("/etc/keybroker"))

    assert [listener.caller for listener in settings.listeners] == ["local", None, "dev"]
    assert settings.listeners[1].tls is not None
    assert settings.listeners[1].tls.private_key == "/etc/keybroker/server.key"
    assert settings.parameters.min_remaining == 3600
    assert settings.audit.file == "-"
    assert (
        parse(SMALLEST | {"audit": {"file": "audit.log"}}, Path("/etc/keybroker")).audit.file
        == "/etc/keybroker/audit.log"
    )
    assert settings.kms.sts == "http://127.0.0.1:4566"
    assert settings.store is not None
    assert settings.store.seal_keys == ("/etc/keybroker/seal-2026-11.key",)
    assert len(settings.version) == 12
    assert settings.version != parse(SMALLEST).version


@pytest.mark.parametrize(("over", "line"), BROKEN, ids=[line for _, line in BROKEN])
def test_a_bad_value_is_refused_by_its_path_and_a_sentence(over: dict[str, Any], line: str) -> None:
    """One line for the fault, which begins with the setting and says what it takes."""
    with pytest.raises(SettingsError) as told:
        parse(SMALLEST | over)

    lines = str(told.value).splitlines()
    assert any(re.match(line, each) for each in lines), lines
    assert len(lines) <= 4
    assert not re.search(r"pydantic|Traceback|type=", str(told.value))


def test_every_fault_is_told_at_once() -> None:
    """An operator mends a file in one round."""
    with pytest.raises(SettingsError) as told:
        parse(SMALLEST | {"kms": {"regions": ["x"], "queue": 0}, "polcy": {}})

    assert {line.partition(":")[0] for line in str(told.value).splitlines()} == {"kms.regions", "kms.queue", "polcy"}


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"listeners = [", "is no TOML"), (b"\xff\xfe", "is no TOML"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """Missing, not TOML, or not UTF-8."""
    file = tmp_path / "keybroker.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=sentence) as told:
        load(file)

    assert str(file) in str(told.value)


def test_a_directory_is_no_settings_file(tmp_path: Path) -> None:
    """A wrong --config is told by the system's own word."""
    with pytest.raises(SettingsError) as told:
        load(tmp_path)

    assert str(told.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_remote_endpoint_stands_in_for_kms_alone() -> None:
    """STS stays AWS's own unless KMS's endpoint is on loopback, or it is named."""
    remote = parse(SMALLEST | {"kms": {"regions": ["us-east-1"], "endpoint": "https://vpce-1.kms.example"}})

    assert remote.kms.sts is None


@pytest.mark.parametrize(
    "kms",
    [
        {"regions": ["eu-central-1"], "endpoint": VPCE.format("eu-central-1")},
        {"regions": ["us-gov-west-1"], "endpoint": "https://vpce-1-2.kms-fips.us-gov-west-1.vpce.amazonaws.com"},
        {"regions": ["cn-north-1"], "endpoint": "https://vpce-1-2.kms.cn-north-1.vpce.amazonaws.com.cn"},
        {"regions": ["us-east-1", "us-west-2"], "sts_endpoint": "https://vpce-1-2.sts.us-east-1.vpce.amazonaws.com"},
        {"regions": ["us-east-1", "us-west-2"], "endpoint": "https://kms.proxy.example"},
        {"regions": ["us-east-1", "us-west-2"], "use_fips": True, "use_dualstack": True},
        {"regions": ["eu-central-1"], "use_fips": True, "sts_endpoint": "https://sts.eu-central-1.amazonaws.com"},
        {"regions": ["eusc-de-east-1"], "use_dualstack": True},
    ],
)
def test_every_way_to_aws_is_a_setting(kms: dict[str, Any]) -> None:
    """VPC endpoints of KMS and STS, FIPS and dual-stack endpoints, and every partition, are taken as they are."""
    settings = parse(SMALLEST | {"kms": kms})

    assert kms == settings.kms.model_dump(mode="json", include=set(kms)) | {"regions": list(settings.kms.regions)}


@pytest.mark.parametrize(("region", "code"), [("us-east-1", EXIT_OK), ("eu-west-1", EXIT_BAD_SETTINGS)])
def test_check_config_tells_a_vpc_endpoint_of_another_region(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], region: str, code: int
) -> None:
    """Before the broker runs: AWS would refuse every request, by its signature."""
    file = tmp_path / "keybroker.toml"
    file.write_text(
        '[[listeners]]\naddress = "unix:/run/k.sock"\ncaller = "local"\n'
        f'[kms]\nregions = ["us-east-1"]\nendpoint = "{VPCE.format(region)}"\n'
    )

    ended = main(["check-config", "--config", str(file)])

    assert code == ended
    assert ("kms.endpoint: is the endpoint of eu-west-1" in capsys.readouterr().err) == (code != EXIT_OK)


@pytest.fixture
def hangups() -> Iterator[None]:
    """SIGHUP as it was: serve ignores it."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("command", ["check-config", "serve"])
@pytest.mark.parametrize(
    ("kms", "sentence"),
    [
        ('regions = ["cn-north-1"]\nuse_fips = true', "the AWS SDK knows no FIPS endpoint of KMS in cn-north-1"),
        ('regions = ["eu-central-1"]\nuse_fips = true', "the AWS SDK knows no FIPS endpoint of STS in eu-central-1;"),
    ],
)
def test_check_config_tells_where_there_is_no_fips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kms: str, sentence: str
) -> None:
    """And serve tells it before anything else."""
    file = tmp_path / "keybroker.toml"
    file.write_text(f'[[listeners]]\naddress = "unix:{tmp_path}/k.sock"\ncaller = "local"\n[kms]\n{kms}\n')

    ended = main([command, "--config", str(file)])

    assert ended == EXIT_BAD_SETTINGS
    assert f"kms.use_fips: {sentence}" in capsys.readouterr().err


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("command", ["check-config", "serve"])
@pytest.mark.parametrize(
    ("section", "missing", "sentence"),
    [
        (
            '[otel]\nendpoint = "https://collector:4317"',
            "opentelemetry.exporter.otlp.proto.grpc",
            "otel: needs opentelemetry.exporter.otlp.proto.grpc, which is not installed: pip install 'keybroker[otel]'",
        ),
        (
            '[store]\nurl = "rediss://cache:6379"\nseal_keys = ["k"]\nfleet_size = 3',
            "redis",
            "store: needs redis, which is not installed: pip install 'keybroker[store]'",
        ),
    ],
)
def test_a_section_without_its_libraries_is_refused_with_what_to_install(  # noqa: PLR0917 -- a row of the table, and fixtures
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    section: str,
    missing: str,
    sentence: str,
) -> None:
    """In a sentence, and before anything else."""
    file = tmp_path / "keybroker.toml"
    listener = f'[[listeners]]\naddress = "unix:{tmp_path}/k.sock"\ncaller = "local"'
    file.write_text(f'{listener}\n[kms]\nregions = ["us-east-1"]\n{section}\n')
    monkeypatch.setitem(sys.modules, missing, None)

    ended = main([command, "--config", str(file)])

    assert (ended, capsys.readouterr().err) == (EXIT_BAD_SETTINGS, sentence + "\n")
