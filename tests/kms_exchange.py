"""One call to a KMS double under way, and what it means to answer it wrongly."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from aiohttp import web

from tests.kms_calls import Call
from tests.kms_errors import KmsError

KEYED = frozenset({"DescribeKey", "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"})
OPERATIONS = KEYED | {"GetCallerIdentity"}

_XMLNS = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What an answer, honest or not, has at hand."""

    http: web.Request
    call: Call
    carry_out: Callable[[], Awaitable[dict[str, Any]]]
    """Does what was asked and gives KMS's result; raises KmsError where KMS would refuse."""
    elsewhere: str
    """The other origin, where redirects point."""

    @property
    def content_type(self) -> str:
        """KMS speaks JSON, STS speaks XML."""
        return "text/xml" if self.call.operation == "GetCallerIdentity" else "application/x-amz-json-1.1"

    def encoded(self, result: dict[str, Any]) -> bytes:
        """Put a result into the words of the protocol."""
        if self.call.operation != "GetCallerIdentity":
            return json.dumps(result).encode()
        members = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in result.items())
        return self._document(
            "GetCallerIdentityResponse", f"<GetCallerIdentityResult>{members}</GetCallerIdentityResult>"
        )

    def success(self, result: dict[str, Any]) -> web.Response:
        """Answer with a result."""
        return web.Response(body=self.encoded(result), content_type=self.content_type)

    def failure(self, error: KmsError) -> web.Response:
        """Answer with an error."""
        body = json.dumps({"__type": error.code, "message": error.message}).encode()
        if self.call.operation == "GetCallerIdentity":
            detail = f"<Type>Sender</Type><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
            body = self._document("ErrorResponse", f"<Error>{detail}</Error>")
        return web.Response(status=error.status, body=body, content_type=self.content_type)

    def gone(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self.http.transport is None or self.http.transport.is_closing()

    def _document(self, root: str, inner: str) -> bytes:
        request_id = f"<RequestId>{self.call.request_id}</RequestId>"
        return f'<{root} xmlns="{_XMLNS}">{inner}<ResponseMetadata>{request_id}</ResponseMetadata></{root}>'.encode()


Answer = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to misbehave: what it says on the wire, and the operations it can befall."""

    says: str
    answer: Answer
    operations: frozenset[str] = OPERATIONS
