"""Ways in which a KMS double's transport fails under a call."""

import asyncio
import socket
import struct
from contextlib import suppress

from aiohttp import web

from tests.kms_errors import CANARY
from tests.kms_exchange import Answer, Exchange, Fault

HTML = f"<html><body><h1>It works!</h1><!-- {CANARY} --></body></html>"
HUGE = 50 * 2**20
DRIP_SECONDS = 0.2

_CHUNK = 2**16


def _page(status: int) -> Answer:
    async def answer(_exchange: Exchange) -> web.StreamResponse:
        return web.Response(status=status, text=HTML, content_type="text/html")

    return answer


def _redirect(status: int) -> Answer:
    async def answer(exchange: Exchange) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": exchange.elsewhere})

    return answer


async def _truncated(exchange: Exchange) -> web.StreamResponse:
    whole = exchange.encoded(await exchange.carry_out())
    return web.Response(body=whole[: len(whole) // 2], content_type=exchange.content_type)


async def _drip(exchange: Exchange) -> web.StreamResponse:
    whole = exchange.encoded(await exchange.carry_out())
    response = await _started(exchange, len(whole))
    for byte in whole:
        if exchange.gone():
            break
        await _write(response, bytes([byte]))
        await asyncio.sleep(DRIP_SECONDS)
    return response


async def _hang(exchange: Exchange) -> web.StreamResponse:
    while not exchange.gone():
        await asyncio.sleep(0.02)
    return web.Response()


async def _hang_after_work(exchange: Exchange) -> web.StreamResponse:
    await exchange.carry_out()
    return await _hang(exchange)


async def _huge(exchange: Exchange) -> web.StreamResponse:
    response = await _started(exchange, None)
    await _write(response, b'{"KeyId": "')
    for _ in range(HUGE // _CHUNK):
        if exchange.gone():
            break
        await _write(response, b"A" * _CHUNK)
    await _write(response, b'"}')
    return response


async def _close(exchange: Exchange) -> web.StreamResponse:
    if exchange.http.transport is not None:
        exchange.http.transport.close()
    return web.Response()


async def _close_after_work(exchange: Exchange) -> web.StreamResponse:
    await exchange.carry_out()
    return await _close(exchange)


async def _reset(exchange: Exchange) -> web.StreamResponse:
    whole = exchange.encoded(await exchange.carry_out())
    response = await _started(exchange, len(whole))
    await _write(response, whole[: len(whole) // 2])
    transport = exchange.http.transport
    if transport is not None:
        # No lingering turns the close into a reset, which the client sees in the middle of the body.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return response


async def _started(exchange: Exchange, length: int | None) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": exchange.content_type})
    response.content_length = length
    await response.prepare(exchange.http)
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    with suppress(ConnectionError):  # the client has gone, as it may
        await response.write(data)


BREAKDOWNS: dict[str, Fault] = {
    "truncated_json": Fault(says="half of the answer, as if it were all; the work is done", answer=_truncated),
    "html_200": Fault(says="a web page, status 200; nothing is done", answer=_page(200)),
    "html_503": Fault(says="a web page, status 503; nothing is done", answer=_page(503)),
    "redirect_307": Fault(says="asks to send the same to another origin; nothing is done", answer=_redirect(307)),
    "redirect_302": Fault(says="points at another origin; nothing is done", answer=_redirect(302)),
    "slow_drip": Fault(says="one byte every 0.2 s; the work is done", answer=_drip),
    "hang": Fault(says="no answer until the client goes; nothing is done", answer=_hang),
    "hang_after_work": Fault(says="no answer until the client goes; the work is done", answer=_hang_after_work),
    "huge_body": Fault(says="50 MiB, streamed; nothing is done", answer=_huge),
    "close_before_answer": Fault(says="reads the request and hangs up; nothing is done", answer=_close),
    "close_after_work": Fault(says="hangs up before it answers; the work is done", answer=_close_after_work),
    "reset_mid_answer": Fault(says="half of the answer, then a reset; the work is done", answer=_reset),
}
