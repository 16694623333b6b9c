"""What a broker costs: cached reads, refusals, crowds and starts, each beside something to compare it with.

    python -m benchmarks.bench --out docs/bench.svg      # three minutes
    python -m benchmarks.bench --seconds 0.1 --rounds 2  # a look

A time says as much about the machine as about the broker, so what is compared runs in turns, round by round, and the
figures are ratios with their spread. The callers and the KMS double are in this process, the servers in their own.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from benchmarks.bench_crowd import crowd
from benchmarks.bench_load import GET, PATIENCE, Neighbours, Subject, caller, measure
from benchmarks.bench_report import BARE_TLS, BARE_UNIX, REFUSAL, STORE, TLS, UNIX, Figures, picture, report
from benchmarks.bench_servers import bare_server, broker, start
from keyimport.v1 import key_import_pb2 as pb
from tests.certificates import Authority, TlsFiles, tls_channel
from tests.kms_double import kms_double
from tests.kms_wrapping import next_wrapping_key
from tests.redis_server import free_port, redis_server

if TYPE_CHECKING:
    from tests.kms_double import KmsDouble

IN_FLIGHT = (1, 8, 64)
KMS_SECONDS = 0.1
"""What KMS takes for a set."""

_CHANNEL = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


async def bench(directory: Path, *, seconds: float, rounds: int, callers: int) -> Figures:
    """Measures everything.

    Args:
        directory: private, and with a short path: sockets are in it.
        seconds: how long each kind of call is made with each number in flight, in each round.
        rounds: how often all of it is done.
        callers: of one key at once.
    """
    figures, neighbours = Figures(), Neighbours()
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(kms_double(latency={"GetParametersForImport": KMS_SECONDS}))
        await next_wrapping_key(2048)  # found now, since it takes its time
        subjects = await _subjects(directory, double, stack)
        channel = await stack.enter_async_context(_channel(directory / "broker.sock"))
        (directory / "start").mkdir(mode=0o700)
        for subject in subjects.values():
            await measure(subject, in_flight=max(IN_FLIGHT), seconds=seconds)  # not counted: what only happens once
        figures.reads = {(name, in_flight): [] for name in subjects for in_flight in IN_FLIGHT}
        for number in range(rounds):
            order = list(subjects)[:: -1 if number % 2 else 1]
            for in_flight in IN_FLIGHT:
                for name in order:
                    sample = await measure(subjects[name], in_flight=in_flight, seconds=seconds)
                    figures.reads[name, in_flight].append(sample)
            figures.crowds.append(await crowd(double, channel, callers))
            await _start_both(directory / "start", double.endpoint, figures)
    figures.others = neighbours.share()
    return figures


async def _subjects(directory: Path, double: KmsDouble, stack: AsyncExitStack) -> dict[str, Subject]:
    """Starts the servers and opens a connection for each kind of call; those to be compared are neighbours."""
    enter = stack.enter_async_context
    server_ca, client_ca = Authority("server CA"), Authority("client CA")
    TlsFiles.write(directory, server_ca.server(), client_ca)
    client, key = client_ca.client(), double.add_key()
    read = pb.GetParametersForImportRequest(key_id=key).SerializeToString()
    refused = pb.GetParametersForImportRequest(
        key_id=key, wrapping_algorithm=pb.WRAPPING_ALGORITHM_RSAES_PKCS1_V1_5
    ).SerializeToString()

    port = free_port()
    broker_pid = (await enter(broker(directory, double.endpoint, port=port))).pid
    unix = await enter(_channel(directory / "broker.sock"))
    tls = await enter(tls_channel(port, server_ca, client))
    answer = await _cached(unix, read)

    port = free_port()
    bare_pid = (await enter(bare_server(directory, port=port, answer=answer))).pid
    bare_unix = await enter(_channel(directory / "bare.sock"))
    bare_tls = await enter(tls_channel(port, server_ca, client))

    subjects = {
        BARE_UNIX: Subject(pid=bare_pid, call=caller(bare_unix, read, answer)),
        UNIX: Subject(pid=broker_pid, call=caller(unix, read, answer)),
        REFUSAL: Subject(pid=broker_pid, call=caller(unix, refused, grpc.StatusCode.INVALID_ARGUMENT)),
    }
    if shutil.which("redis-server"):
        redis = await enter(redis_server())
        (directory / "store").mkdir(mode=0o700)
        store_pid = (await enter(broker(directory / "store", double.endpoint, store=redis.url))).pid
        store = await enter(_channel(directory / "store" / "broker.sock"))
        subjects[STORE] = Subject(pid=store_pid, call=caller(store, read, await _cached(store, read)))
    return subjects | {
        BARE_TLS: Subject(pid=bare_pid, call=caller(bare_tls, read, answer)),
        TLS: Subject(pid=broker_pid, call=caller(tls, read, answer)),
    }


async def _start_both(directory: Path, endpoint: str, figures: Figures) -> None:
    figures.brokers.append(await start(broker(directory, endpoint), f"unix:{directory}/broker.sock"))
    figures.bare.append(await start(bare_server(directory), f"unix:{directory}/bare.sock"))


async def _cached(channel: grpc.aio.Channel, request: bytes) -> bytes:
    """What a broker answers once it has the set."""
    get: Any = channel.unary_unary(GET)
    answer = b""
    while pb.GetParametersForImportResponse.FromString(answer).source != pb.PARAMETERS_SOURCE_CACHE:
        answer = await get(request, timeout=PATIENCE)
    return answer


def _channel(socket: Path) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"unix:{socket}", options=_CHANNEL)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (%(default)g)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is made (%(default)d)")
    parser.add_argument("--callers", type=int, default=2000, help="of one key at once (%(default)d)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the picture goes, as SVG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        made = asyncio.run(
            bench(Path(directory), seconds=arguments.seconds, rounds=arguments.rounds, callers=arguments.callers)
        )
    for line in report(made):
        print(line)
    if arguments.out:  # last, since the report tells whether the commit has been changed
        arguments.out.write_text(picture(made))


if __name__ == "__main__":
    main()
