"""One row: its key looked at, its material wrapped and imported once, and what became of it found out."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from keyimport.bulk import judging, sources
from keyimport.bulk.entries import Entry, Event
from keyimport.bulk.items import Phase
from keyimport.bulk.judging import NOT_IMPORTED, PENDING, require_importable
from keyimport.bulk.patience import awaited, patiently, seconds_to_wait
from keyimport.errors import ImportTokenRefused, KeyImportError, TryLater
from keyimport.material import check_kind
from keyimport.requests import import_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyimport.bulk.items import Item
    from keyimport.bulk.journal import Journal
    from keyimport.bulk.manifest import Manifest
    from keyimport.bulk.rows import Row
    from keyimport.client import KeyImportClient
    from keyimport.results import ImportedKeyMaterial, KeyImportStatus
    from keyimport.wrapping import Parameters

_LOOKS_AT_ONCE: Final = 8
_IMPORTS_AT_ONCE: Final = 4
_BETWEEN_LOOKS: Final = 1.0
_LOST_AT_MOST: Final = 3
# More than the broker gives KMS. The client may send once more within it, so that it also bounds how long after its
# importing line an import can reach KMS, which the settling time counts from.
_SEND_SECONDS: Final = 15.0


class Importing:
    """What is done to single rows. Every method leaves the row waiting, or done and in the journal."""

    def __init__(self, *, client: KeyImportClient, journal: Journal, manifest: Manifest, settling: timedelta) -> None:
        """Begin nothing.

        Args:
            client: open.
            journal: open.
            manifest: says where the rows' files are.
            settling: how long after an import of unknown outcome a key that is PendingImport is not believed.
        """
        self._client = client
        self._journal = journal
        self._manifest = manifest
        self._settling = settling
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._imports = asyncio.Semaphore(_IMPORTS_AT_ONCE)
        self._interruptible: set[asyncio.Task[object]] = set()
        self._interrupted = False

    def interrupt(self) -> None:
        """Cancel whatever has no import under way, now and later."""
        self._interrupted = True
        for task in self._interruptible:
            task.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let `interrupt` cancel the task in this block, or before it begins."""
        task = asyncio.current_task()
        if task is None or self._interrupted:
            raise asyncio.CancelledError
        self._interruptible.add(task)
        try:
            yield
        finally:
            self._interruptible.discard(task)

    async def look(self, item: Item) -> None:
        """Refuse a key that takes no import, before quota is spent on it."""
        with self.interruptible():
            try:
                async with self._looks:
                    status = await patiently(lambda: self._client.status(item.row.key_id))
                require_importable(item, status)
            except KeyImportError as error:
                self.fail(item, error)
            else:
                item.phase = Phase.WAITING

    async def run(self, item: Item, parameters: Parameters) -> None:
        """Wrap under these parameters, import, and find out what became of it."""
        with self.interruptible():
            await self._imports.acquire()
        try:
            with self.interruptible():
                prepared = await self._prepared(item, parameters)
            if prepared is None:
                return
            importing, wrapped = prepared
            self._journal.append(importing)
            # From here to the answer nothing interrupts but the end of the process, or of patience with it.
            item.phase, item.importing = Phase.IMPORTING, importing
            try:
                imported = await self._send(item, parameters, wrapped)
            except KeyImportError as error:
                self._refused(item, error)
            else:
                self._imported(item, imported)
        finally:
            self._imports.release()
        if item.phase is Phase.SETTLING:
            await self.settle(item)

    async def settle(self, item: Item) -> None:
        """Find out by the key's state what became of the last import."""
        importing = item.importing
        if importing is None:
            raise RuntimeError("no import of this row was sent")
        with self.interruptible():
            try:
                status = await self._settled(importing)
            except KeyImportError as error:
                self._unknown(item, error)
                return
        if status.key_state == PENDING:
            item.lost += 1
            if item.lost >= _LOST_AT_MOST:
                self.fail(item, KeyImportError(f"{item.lost} imports were lost on their way, and each spent quota"))
            else:
                self._again(item, "", "the key is still PendingImport")
        elif judging.was_imported(item, importing, status):
            self._end(item, replace(importing, event=Event.IMPORTED, found_by="status", key_state=""))
        else:
            was, text = importing.key_state, "an import whose answer was lost; look at its material"
            self._unknown(item, KeyImportError(f"the key was {was} and is {status.key_state} after {text}"))

    def break_off(self, item: Item, error: Exception) -> None:
        """The row is done for this run by an error that nobody foresaw; the others go on."""
        if item.phase in (Phase.IMPORTING, Phase.SETTLING):
            self._unknown(item, error)
        else:
            self.fail(item, error)

    def fail(self, item: Item, error: Exception) -> None:
        """The row is done for this run, and nothing was imported."""
        item.error = error
        self._end(item, judging.entry(item, Event.FAILED, error))

    async def _prepared(self, item: Item, parameters: Parameters) -> tuple[Entry, bytes] | None:
        """The importing entry and the wrapped material; None if the row has failed."""
        row = item.row
        try:
            # Once more: it may have been hours since, and what the key was just before tells later what was imported.
            status = await patiently(lambda: self._client.status(parameters.key_arn))
            require_importable(item, status)
            material = await asyncio.to_thread(self._source(item), self._manifest, row)
            check_kind(material, status.key_spec)
            wrapped = parameters.wrap(material)
            # What cannot be made a request is found out before the journal says that one is about to be sent.
            import_request(**_choices(row))
        except KeyImportError as error:
            self.fail(item, error)
            return None
        entry = Entry(
            event=Event.IMPORTING,
            key_id=row.key_id,
            time=datetime.now(UTC),
            key_arn=parameters.key_arn,
            key_state=status.key_state,
            public_key_sha256=parameters.fingerprint,
            encrypted_key_material_sha256=hashlib.sha256(wrapped).hexdigest(),
        )
        return entry, wrapped

    def _source(self, item: Item) -> Callable[[Manifest, Row], bytes]:
        """What gives the row's material. What an earlier run has saved is never made anew: KMS may have it."""
        if not item.row.generate or (item.generating and self._manifest.file(item.row.save).exists()):
            return sources.material
        if not item.generating:
            sources.require_free(self._manifest, item.row)
            self._journal.append(judging.entry(item, Event.GENERATING))
            item.generating = True
        return sources.made

    async def _send(self, item: Item, parameters: Parameters, wrapped: bytes) -> ImportedKeyMaterial:
        return await self._client.import_wrapped(
            parameters.key_arn, wrapped, parameters.import_token, **_choices(item.row), timeout=_SEND_SECONDS
        )

    def _refused(self, item: Item, error: KeyImportError) -> None:
        first_token = isinstance(error, ImportTokenRefused) and item.tokens_refused == 0
        if first_token or isinstance(error, TryLater):
            item.tokens_refused += first_token
            item.due = asyncio.get_running_loop().time() + (seconds_to_wait(error) or 0)
            self._again(item, error.reason, error.message)
            item.why = awaited(error)
        elif isinstance(error, NOT_IMPORTED):
            self.fail(item, error)
        else:
            self._journal.append(judging.entry(item, Event.UNKNOWN, error))
            item.phase = Phase.SETTLING

    async def _settled(self, importing: Entry) -> KeyImportStatus:
        """The key's status, PendingImport only if it is so when the settling time has passed."""
        # By the clock of the wall, as the import may be of an earlier run; but if that was set back, not for ever.
        passed = max(timedelta(), datetime.now(UTC) - importing.time)
        loop = asyncio.get_running_loop()
        believed_at = loop.time() + max(timedelta(), self._settling - passed).total_seconds()
        while True:
            asked_at = loop.time()
            status = await patiently(lambda: self._client.status(importing.key_arn))
            if status.key_state != PENDING or asked_at >= believed_at:
                return status
            await asyncio.sleep(min(_BETWEEN_LOOKS, max(0.0, believed_at - loop.time())))

    def _imported(self, item: Item, imported: ImportedKeyMaterial) -> None:
        fingerprint = item.importing.public_key_sha256 if item.importing else ""
        self._end(
            item,
            Entry(
                event=Event.IMPORTED,
                key_id=item.row.key_id,
                time=datetime.now(UTC),
                key_arn=imported.key_arn,
                key_material_id=imported.key_material_id,
                public_key_sha256=fingerprint,
                found_by="answer",
            ),
        )

    def _unknown(self, item: Item, error: Exception) -> None:
        item.error = error
        self._end(item, judging.entry(item, Event.UNKNOWN, error))

    def _again(self, item: Item, reason: str, message: str) -> None:
        entry = replace(judging.entry(item, Event.NOT_IMPORTED), reason=reason, message=message)
        self._journal.append(entry)
        item.phase = Phase.WAITING

    def _end(self, item: Item, entry: Entry) -> None:
        self._journal.append(entry)
        item.end, item.phase = entry, Phase.DONE


def _choices(row: Row) -> dict[str, Any]:
    """What the row says of its import, as `KeyImportClient.import_wrapped` takes it."""
    return {
        "valid_to": row.valid_to,
        "never_expires": row.valid_to is None,
        "import_type": row.import_type_number,
        "key_material_id": row.key_material_id,
        "key_material_description": row.description,
    }
