"""`keybroker wait`: returns when a broker is SERVING, for init containers and health checks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PAUSE = 0.1
_CALL = 2.0


def wait(target: str, *, tls: Sequence[Path] | None, server_name: str | None = None, timeout: float) -> str | None:
    """Waits until the broker's health is SERVING.

    Args:
        target: unix:PATH, or tcp:HOST:PORT.
        tls: the server's CA, the client's certificate and its private key, as PEM files; None for plain text.
        server_name: what the server's certificate must be for; None for the target's host.
        timeout: seconds; 0 asks once.

    Returns:
        None, or in words what the health was at the end.

    Raises:
        OSError: a file cannot be read.
    """
    address = target if target.startswith("unix:") else "dns:///" + target.removeprefix("tcp:")
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if tls:
        ca, certificate, private_key = (path.read_bytes() for path in tls)
        credentials = grpc.ssl_channel_credentials(ca, private_key, certificate)
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address, options)
    until = time.monotonic() + timeout
    with channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            left = until - time.monotonic()
            # One call is always made, and where that is all, with time to be answered.
            limit = max(0.1, min(_CALL, left)) if left > 0 else _CALL
            try:
                answer = health.Check(
                    health_pb2.HealthCheckRequest(),
                    timeout=limit,
                    wait_for_ready=left > 0,
                )
                said: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            except grpc.RpcError as error:
                said = error.code().name
            if said == "SERVING":
                return None
            if time.monotonic() + _PAUSE >= until:
                return said
            time.sleep(_PAUSE)
