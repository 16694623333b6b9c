"""What each client says it talks to over a Unix socket, which has no name: a server may refuse what is no authority."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hpack import Decoder

from tests.conformance.drivers import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.conformance.conftest import Marks
    from tests.conformance.drivers import Driver
    from tests.conftest import RunningBroker
    from tests.kms_double import KmsDouble

    RunBroker = Callable[..., AbstractAsyncContextManager[RunningBroker]]

# RFC 9113, sections 3.4, 4.1 and 6.2.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER = 9
HEADERS, CONTINUATION = 1, 9
PADDED, PRIORITY = 0x8, 0x20


def _authorities(sent: bytes) -> list[str]:
    """What a client has called the server, request by request."""
    assert sent.startswith(PREFACE)
    decoder, rest, blocks = Decoder(), sent.removeprefix(PREFACE), list[bytes]()
    while len(rest) >= FRAME_HEADER:
        length, kind, flags = int.from_bytes(rest[:3]), rest[3], rest[4]
        payload, rest = rest[FRAME_HEADER : FRAME_HEADER + length], rest[FRAME_HEADER + length :]
        if kind == HEADERS:
            padding = payload[0] if flags & PADDED else 0
            before = bool(flags & PADDED) + 5 * bool(flags & PRIORITY)
            blocks.append(payload[before : len(payload) - padding])
        elif kind == CONTINUATION:
            blocks[-1] += payload
    headers = [dict(decoder.decode(block, raw=True)) for block in blocks]
    return [each[b":authority"].decode() for each in headers]


@asynccontextmanager
async def _listening_in(upstream: str, path: Path) -> AsyncIterator[bytearray]:
    """Passes a Unix socket's connections on to another; what the clients send."""
    sent, writers = bytearray(), list[asyncio.StreamWriter]()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                record += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_unix_connection(upstream)
        writers.extend((writer, before))
        await asyncio.gather(pump(reader, before, sent), pump(behind, writer, bytearray()))

    async with await asyncio.start_unix_server(accept, path):
        yield sent
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize("language", LANGUAGES)
async def test_over_a_unix_socket_the_authority_is_localhost(  # noqa: PLR0917 -- fixtures
    drivers: dict[str, Driver],
    marks: Marks,
    run_broker: RunBroker,
    double: KmsDouble,
    tmp_path: Path,
    language: str,
) -> None:
    """As gRPC has it, and not the socket's path, which strict servers refuse."""
    arn, path = double.add_key(), tmp_path / "between.sock"
    async with run_broker() as broker, _listening_in(broker.target.removeprefix("unix:"), path) as sent:
        await drivers[language].do({"do": "connect", "target": f"unix:{path}"})
        answer = await drivers[language].do({"do": "status", "key_id": arn})

    assert "ok" in answer
    assert _authorities(bytes(sent)) == ["localhost"]
    marks.mark("over a Unix socket the authority is localhost", language)
