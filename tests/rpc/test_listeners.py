"""Sockets: who may open them, what stands in their way, and that the socket alone says who calls."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keybroker import listeners
from keybroker.settings_listeners import Listener
from keyimport.v1 import key_import_pb2 as pb
from keyimport.v1 import key_import_pb2_grpc
from tests.conftest import refusal_of
from tests.keybroker_process import run, settings_file, unix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

EVERY_KEY = ["arn:aws:kms:*:*:key/*"]
MODES = ["0600", "0640", "0660", "0666", "0777"]


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def _get(arn: str) -> pb.GetParametersForImportRequest:
    return pb.GetParametersForImportRequest(key_id=arn, wrapping_key_spec=pb.WRAPPING_KEY_SPEC_RSA_2048)


def _delete(arn: str) -> pb.DeleteImportedKeyMaterialRequest:
    return pb.DeleteImportedKeyMaterialRequest(key_id=arn)


def _stub(channel: grpc.aio.Channel) -> Any:
    return key_import_pb2_grpc.KeyImportServiceStub(channel)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The process's umask, from careless to careful."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", MODES)
async def test_a_sockets_mode_is_the_settings(
    run_broker: RunBroker, double: KmsDouble, tmp_path: Path, umask: int, mode: str
) -> None:
    """Whatever umask the process was started with, and it has it back afterwards."""
    path = tmp_path / "broker.sock"
    async with run_broker(listeners=[{"address": f"unix:{path}", "caller": "local", "mode": mode}]) as broker:
        seen = _mode(path)
        answer = await broker.stub.GetParametersForImport(_get(double.add_key()))
        left = os.umask(umask)

    assert seen == mode
    assert left == umask
    assert answer.import_token


class BoundServer:
    """A gRPC server that notes the permissions its socket comes into being with."""

    def __init__(self) -> None:
        self.server = grpc.aio.server()
        self.modes: list[int] = []

    def add_insecure_port(self, address: str) -> int:
        """Binds, and looks at once."""
        port = self.server.add_insecure_port(address)
        self.modes.append(stat.S_IMODE(Path(address.removeprefix("unix:")).stat().st_mode))
        return port


@pytest.mark.parametrize("mode", MODES)
async def test_a_socket_is_never_wider_than_its_mode(tmp_path: Path, umask: int, mode: str) -> None:
    """Not even between bind and chmod, when someone quick could open it."""
    path = tmp_path / "broker.sock"
    server: Any = BoundServer()

    listeners.bind(server, Listener(address=f"unix:{path}", caller="local", mode=mode), None)

    (first,) = server.modes
    assert first & ~int(mode, 8) == 0
    assert _mode(path) == mode
    assert os.umask(umask) == umask
    await server.server.stop(0)


async def test_a_stale_socket_is_removed(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """What a crashed broker left behind is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(f"{tmp_path}/broker.sock")

    async with run_broker() as broker:
        answer = await broker.stub.GetParametersForImport(_get(double.add_key()))

    assert answer.import_token
    assert not (tmp_path / "broker.sock").exists()


async def test_a_live_socket_is_left_to_its_owner(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """A second broker on the same path ends with 1 and a sentence; the first keeps its socket and its callers."""
    path, arn = tmp_path / "broker.sock", double.add_key()
    config = settings_file(tmp_path / "second.toml", double.endpoint, unix(path))
    async with run_broker() as first:
        ended = await run("serve", "--config", config)
        async with grpc.aio.insecure_channel(f"unix:{path}") as newcomer:
            answers = [await _stub(channel).GetParametersForImport(_get(arn)) for channel in (first.channel, newcomer)]

    assert (ended.code, ended.told) == (1, [f"unix:{path}: another process is listening there"])
    assert "Traceback" not in ended.errors
    assert [answer.key_arn for answer in answers] == [arn, arn]


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path, double: KmsDouble) -> None:
    """What is no socket is somebody's: exit 1, a sentence, and not a byte of it is changed."""
    path = tmp_path / "broker.sock"
    path.write_text("precious")

    ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, unix(path)))

    assert (ended.code, ended.told) == (1, [f"unix:{path}: is there already, and is no socket; it is left alone"])
    assert path.read_text() == "precious"


async def test_a_link_in_the_way_is_left_alone(tmp_path: Path, double: KmsDouble) -> None:
    """A symbolic link is not followed, neither to remove what it points at nor to listen there."""
    path, target = tmp_path / "broker.sock", tmp_path / "elsewhere.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(target))
    path.symlink_to(target)

    ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, unix(path)))

    assert ended.code == 1
    assert len(ended.told) == 1
    assert path.is_symlink()
    assert target.is_socket()


async def test_a_missing_directory_is_named(tmp_path: Path, double: KmsDouble) -> None:
    """Exit 1 and a sentence with the directory; the broker creates none, since its permissions matter."""
    path = tmp_path / "missing" / "broker.sock"

    ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, unix(path)))

    assert ended.code == 1
    assert ended.told == [f"unix: the directory {path.parent}: No such file or directory"]
    assert not path.parent.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o757])
async def test_a_directory_others_may_write_is_refused(tmp_path: Path, double: KmsDouble, mode: int) -> None:
    """Whoever can write it could put a socket of his own in the place of the broker's."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    path = directory / "broker.sock"

    ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, unix(path)))

    assert ended.code == 1
    assert len(ended.told) == 1
    assert ended.told[0].startswith(f"unix: the directory {directory} may be written by others")
    assert not path.exists()


async def test_a_port_in_use_is_named(tmp_path: Path, double: KmsDouble) -> None:
    """Exit 1 and a sentence with the address; a port is never shared in silence."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        listener = f'address = "{address}"\nplaintext = true\ncaller = "dev"'

        ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, listener))

    assert (ended.code, ended.told) == (1, [f"{address}: cannot be bound; is the port in use?"])


async def test_a_port_of_another_broker_is_not_shared(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """Two brokers on one port would each get half of the callers, which gRPC allows by default."""
    unix_listener = {"address": f"unix:{tmp_path}/broker.sock", "caller": "local"}
    tcp_listener = {"address": "tcp:127.0.0.1:0", "plaintext": True, "caller": "dev"}
    async with run_broker(listeners=[unix_listener, tcp_listener]) as first:
        address = f"tcp:127.0.0.1:{first.app.ports[1]}"
        listener = f'address = "{address}"\nplaintext = true\ncaller = "dev"'

        ended = await run("serve", "--config", settings_file(tmp_path / "k.toml", double.endpoint, listener))

    assert (ended.code, ended.told) == (1, [f"{address}: cannot be bound; is the port in use?"])


async def test_all_listeners_or_none(tmp_path: Path, double: KmsDouble) -> None:
    """Where the second cannot be had, the first is not left behind."""
    first, second = tmp_path / "first.sock", tmp_path / "second.sock"
    second.write_text("precious")
    config = settings_file(tmp_path / "k.toml", double.endpoint, unix(first, "one"), unix(second, "two"))

    ended = await run("serve", "--config", config)

    assert ended.code == 1
    assert not first.exists()


async def test_each_socket_has_its_own_caller(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """Two sockets, two callers: what the one is granted the other is denied, over the same broker and cache."""
    arn = double.add_key(state="Enabled")
    sockets = [{"address": f"unix:{tmp_path}/{name}.sock", "caller": name} for name in ("importer", "janitor")]
    callers = [
        {"id": "importer", "keys": EVERY_KEY, "operations": ["GetParametersForImport", "ImportKeyMaterial"]},
        {"id": "janitor", "keys": EVERY_KEY, "operations": ["DeleteImportedKeyMaterial"]},
    ]
    async with (
        run_broker(listeners=sockets, callers=callers),
        grpc.aio.insecure_channel(f"unix:{tmp_path}/importer.sock") as importers,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/janitor.sock") as janitors,
    ):
        importer, janitor = _stub(importers), _stub(janitors)
        got = await importer.GetParametersForImport(_get(arn))
        may_not_delete = await refusal_of(importer.DeleteImportedKeyMaterial(_delete(arn)))
        deletes_before = double.count("DeleteImportedKeyMaterial")
        deleted = await janitor.DeleteImportedKeyMaterial(_delete(arn))
        may_not_get = await refusal_of(janitor.GetParametersForImport(_get(arn)))

    assert (got.key_arn, deleted.key_arn) == (arn, arn)
    for refusal in (may_not_delete, may_not_get):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_AUTHORIZED")
    assert deletes_before == 0
    assert double.count("GetParametersForImport") == 1


async def test_a_loopback_port_serves_too(run_broker: RunBroker, double: KmsDouble, tmp_path: Path) -> None:
    """Plain text on the loopback, if the settings say the word: the same broker, health included."""
    arn = double.add_key()
    sockets = [
        {"address": f"unix:{tmp_path}/broker.sock", "caller": "local"},
        {"address": "tcp:127.0.0.1:0", "plaintext": True, "caller": "dev"},
        {"address": "tcp:[::1]:0", "plaintext": True, "caller": "dev"},
    ]
    answers = []
    async with run_broker(listeners=sockets) as broker:
        zero, *ports = broker.app.ports
        for host, port in zip(("127.0.0.1", "[::1]"), ports, strict=True):
            async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                checked = await health.Check(health_pb2.HealthCheckRequest())
                answers.append(await _stub(channel).GetParametersForImport(_get(arn)))
                assert checked.status == health_pb2.HealthCheckResponse.SERVING

    assert zero == 0
    assert [answer.key_arn for answer in answers] == [arn, arn]
    assert double.count("GetParametersForImport") == 1


@pytest.mark.parametrize(
    "metadata",
    [
        ("authorization", "Bearer janitor"),
        ("x-forwarded-client-cert", "URI=spiffe://corp.example/janitor"),
        ("x-spiffe-id", "spiffe://corp.example/janitor"),
        ("x-forwarded-for", "127.0.0.1"),
        ("caller", "janitor"),
        ("x-caller-bin", b"janitor"),
    ],
)
async def test_metadata_never_changes_who_one_is(
    run_broker: RunBroker, double: KmsDouble, metadata: tuple[str, str | bytes]
) -> None:
    """Whatever identity a caller claims: granted stays granted, denied stays denied, to the byte."""
    arn = double.add_key(state="Enabled")
    callers = [
        {"id": "local", "keys": EVERY_KEY, "operations": ["GetParametersForImport"]},
        {"id": "janitor", "keys": EVERY_KEY, "operations": ["DeleteImportedKeyMaterial"]},
        {"id": "spiffe://corp.example/janitor", "keys": EVERY_KEY, "operations": ["DeleteImportedKeyMaterial"]},
    ]
    async with run_broker(callers=callers) as broker:
        plain = await refusal_of(broker.stub.DeleteImportedKeyMaterial(_delete(arn)))
        claimed = await refusal_of(broker.stub.DeleteImportedKeyMaterial(_delete(arn), metadata=(metadata,)))
        got = await broker.stub.GetParametersForImport(_get(arn), metadata=(metadata,))

    assert plain.reason == "CALLER_NOT_AUTHORIZED"
    assert claimed == plain
    assert got.key_arn == arn
    assert double.count("DeleteImportedKeyMaterial") == 0
