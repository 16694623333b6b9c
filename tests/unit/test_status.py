"""Errors on the wire: the contract's table, and nothing but fixed sentences."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from keybroker import errors
from keybroker.status import CODES, to_metadata, to_status
from keyimport.v1 import key_import_pb2 as pb

ROOT = Path(__file__).parents[2]
CONTRACT = {
    "INVALID_ARGUMENT": {
        "KEY_ID_MALFORMED", "ALIAS_NOT_ALLOWED", "REQUEST_MALFORMED", "REGION_NOT_SERVED", "KEY_MATERIAL_UNREADABLE",
        "WRAPPING_ALGORITHM_DEPRECATED", "WRAPPING_ALGORITHM_NOT_ALLOWED", "WRAPPING_KEY_SPEC_NOT_ALLOWED",
        "WRAPPING_UNSUITABLE",
    },
    "UNAUTHENTICATED": {"CALLER_UNAUTHENTICATED"},
    "PERMISSION_DENIED": {"FOREIGN_ACCOUNT", "CALLER_NOT_AUTHORIZED", "KMS_DENIED_BROKER"},
    "NOT_FOUND": {"KEY_NOT_FOUND"},
    "FAILED_PRECONDITION": {
        "KEY_NOT_EXTERNAL", "KEY_STATE_INCOMPATIBLE", "IMPORT_TOKEN_INVALID", "IMPORT_TOKEN_EXPIRED",
        "KEY_MATERIAL_MISMATCH",
    },
    "RESOURCE_EXHAUSTED": {
        "QUOTA_WAIT_EXCEEDS_DEADLINE", "QUOTA_QUEUE_FULL", "KMS_THROTTLED", "CALLER_RATE_EXCEEDED",
    },
    "UNAVAILABLE": {"KMS_UNAVAILABLE", "BROKER_CREDENTIALS"},
    "UNKNOWN": {"OUTCOME_UNKNOWN"},
    "INTERNAL": {"KMS_BAD_RESPONSE", "INTERNAL"},
}  # fmt: skip


def _classes(base: type[errors.BrokerError] = errors.BrokerError) -> list[type[errors.BrokerError]]:
    """Every class that stands for a reason."""
    below = [each for child in base.__subclasses__() for each in _classes(child)]
    return below or [base]


def _made(kind: type[errors.BrokerError]) -> errors.BrokerError:
    secret = "canary: arn:aws:iam::111122223333:role/secret"
    error = kind(detail=secret, retry_after=2.5) if issubclass(kind, errors.TryAgain) else kind(detail=secret)
    error.__cause__ = ValueError(secret)
    return error


def test_codes_are_the_contracts() -> None:
    """The published enum, the error classes and the table name the same reasons."""
    published = {name.removeprefix("ERROR_REASON_") for name in pb.ErrorReason.keys()[1:]}

    assert {reason: name for name, reasons in CONTRACT.items() for reason in reasons} == {
        reason: code.name for reason, code in CODES.items()
    }
    assert published == set(CODES)
    assert sorted(kind.reason for kind in _classes()) == sorted(CODES)


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.reason)
def test_a_status_tells_reason_hints_and_no_more(kind: type[errors.BrokerError]) -> None:
    """Fixed sentence, ErrorInfo, hints where they help; neither detail nor cause in a single byte."""
    error = _made(kind)

    status = to_status(error, "0123456789abcdef")
    trailing = dict(to_metadata(error, status))
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    for detail in status.details:
        for message in (info, retry, bad):
            detail.Unpack(message)

    assert (info.reason, info.domain) == (kind.reason, "keyimport")
    assert status.message == kind.sentence
    assert len(status.message) < 300
    assert retry.HasField("retry_delay") == issubclass(kind, errors.TryAgain)
    assert bool(bad.field_violations) == (getattr(kind, "field_name", None) is not None)
    assert ("correlation_id" in info.metadata) == (CODES[kind.reason] is grpc.StatusCode.INTERNAL)
    assert trailing.get("grpc-retry-pushback-ms") == ("2500" if issubclass(kind, errors.TryAgain) else None)
    assert b"canary" not in status.SerializeToString()
    assert len(status.SerializeToString()) < 4096


def test_two_refusals_are_alike_to_the_byte() -> None:
    """The broker's own knowledge of a key, or of the request, makes no difference a caller could see."""
    one, other = (errors.CallerNotAuthorized(detail=detail) for detail in ("a key that exists", "one that does not"))

    assert to_status(one, "0123").SerializeToString() == to_status(other, "4567").SerializeToString()


def test_the_document_lists_every_reason_with_its_code() -> None:
    """docs/errors.md cannot drift from the table."""
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| (yes)? ?\|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    retried = {kind.reason for kind in _classes(errors.TryAgain)}

    assert {reason: code for reason, code, _ in rows} == {reason: code.name for reason, code in CODES.items()}
    assert {reason for reason, _, yes in rows if yes} == retried


def test_every_link_in_the_documents_leads_somewhere() -> None:
    """No dead link between our own pages, and every test SECURITY.md names exists."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("clients/*/*.md"), *ROOT.glob("deploy/**/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())]
    named = re.findall(r"`(tests/[\w/.]+)`", (ROOT / "SECURITY.md").read_text())

    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
