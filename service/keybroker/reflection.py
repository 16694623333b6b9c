"""Server reflection, v1 and v1alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from keyimport.v1 import key_import_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

_V1 = "grpc.reflection.v1.ServerReflection"


def _name(file: FileDescriptor, service: str) -> str:
    name: str = file.services_by_name[service].full_name
    return name


SERVICE = _name(key_import_pb2.DESCRIPTOR, "KeyImportService")


def add_reflection(server: grpc.aio.Server) -> None:
    """Lets a server describe what it serves."""
    names = (SERVICE, _name(health_pb2.DESCRIPTOR, "Health"), _V1, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    # v1 differs from v1alpha in its name only; grpcio-reflection has no code for it yet.
    servicer: Any = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_V1, {"ServerReflectionInfo": handler}),))
