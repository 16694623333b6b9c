"""A gRPC server that has health and one fixed answer, and nothing else: what a broker is measured beside.

    python bare_server.py DIRECTORY [PORT]

It listens on DIRECTORY/bare.sock and, given a port, with mutual TLS from server.pem, server.key and clients.pem. It
answers GetParametersForImport with the bytes of the file `answer`, and does not look at the request.
"""

import asyncio
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio


async def main(directory: Path, port: str) -> None:
    """Serves until the process is ended."""
    answer = (directory / "answer").read_bytes()

    async def get(_request: bytes, _context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    handlers = {"GetParametersForImport": grpc.unary_unary_rpc_method_handler(get)}
    server.add_registered_method_handlers("keyimport.v1.KeyImportService", handlers)
    health = aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"unix:{directory}/bare.sock")
    if port:
        certificate, key, clients = (
            (directory / name).read_bytes() for name in ("server.pem", "server.key", "clients.pem")
        )
        credentials = grpc.ssl_server_credentials([(key, certificate)], clients, require_client_auth=True)
        server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), "".join(sys.argv[2:])))
