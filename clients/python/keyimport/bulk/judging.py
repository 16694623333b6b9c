"""What an answer says of a row: whether its key takes an import, and whether an import was made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from keyimport.bulk.entries import Entry, Event
from keyimport.cli.exits import failure_of
from keyimport.errors import (
    CallerRefused,
    ImportTokenRefused,
    KeyImportError,
    KeyMaterialRefused,
    KeyNotExternal,
    KeyRefused,
    KeyStateIncompatible,
    KmsDeniedBroker,
    MaterialUnsuitable,
    RequestRefused,
)

if TYPE_CHECKING:
    from keyimport.bulk.items import Item
    from keyimport.results import KeyImportStatus

PENDING: Final = "PendingImport"
"""The state of a key without material, in KMS's words."""

WITH_MATERIAL: Final = frozenset({"Enabled", "Disabled"})
"""The states of a key with material, in KMS's words."""

NOT_IMPORTED: Final = (
    RequestRefused,
    CallerRefused,
    KeyRefused,
    ImportTokenRefused,
    KeyMaterialRefused,
    KmsDeniedBroker,
)
"""Errors that say of an import: KMS has not made it. Any other, one not known yet included, leaves that open."""


def require_importable(item: Item, status: KeyImportStatus) -> None:
    """Refuse a key that takes no import, or not the one of this row, with a subclass of KeyImportError."""
    if not status.external_origin:
        raise KeyNotExternal("the key was not created with origin EXTERNAL", reason="KEY_NOT_EXTERNAL")
    expected = {PENDING} | (WITH_MATERIAL if item.row.import_type else frozenset())
    if status.key_state not in expected:
        text = f"the key is {status.key_state}"
        if status.key_state in WITH_MATERIAL:
            text += "; a row for a key that is not PendingImport needs an import_type"
        raise KeyStateIncompatible(text, reason="KEY_STATE_INCOMPATIBLE")
    if item.row.import_type and status.key_spec != "SYMMETRIC_DEFAULT":
        raise MaterialUnsuitable(f"import_type is for symmetric encryption keys, and this one is {status.key_spec}")


def was_imported(item: Item, importing: Entry, status: KeyImportStatus) -> bool:
    """Whether an import whose answer was lost has happened for certain.

    Args:
        item: the row.
        importing: its importing entry.
        status: what the key is now.
    """
    if importing.key_state != PENDING or status.key_state not in WITH_MATERIAL:
        return False
    asked, found = item.row.valid_to, status.material_valid_to
    if asked is None or found is None:
        return asked is found
    # KMS may keep less of a second than it was given.
    return abs(asked - found) < timedelta(seconds=1)


def entry(item: Item, event: Event, error: Exception | None = None) -> Entry:
    """What is to be noted now of the row, and of the error if there is one."""
    sent = item.importing
    reason = message = ""
    if isinstance(error, KeyImportError):
        reason, message = error.reason or type(error).__name__, error.message
    elif error:
        reason, message = type(error).__name__, failure_of(error).message
    return Entry(
        event=event,
        key_id=item.row.key_id,
        time=datetime.now(UTC),
        key_arn=sent.key_arn if sent else "",
        public_key_sha256=sent.public_key_sha256 if sent else "",
        reason=reason,
        message=message,
    )
