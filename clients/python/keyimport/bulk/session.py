"""One run of `keyimport bulk`: from the check of the manifest to the report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from keyimport.bulk import manifest as manifests
from keyimport.bulk import report as reports
from keyimport.bulk import sources, summary
from keyimport.bulk.entries import History, histories
from keyimport.bulk.journal import Journal, JournalError, JournalFailed
from keyimport.bulk.manifest import ManifestRefused
from keyimport.bulk.progress import Bar, Lines
from keyimport.bulk.run import GREETING_SECONDS, Run
from keyimport.cli import output
from keyimport.cli.exits import CommandFailed, Exit, Failure
from keyimport.cli.requests import telling_of_the_wait
from keyimport.wrapping import algorithm_number, spec_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from keyimport.bulk.manifest import Manifest
    from keyimport.bulk.progress import Display
    from keyimport.bulk.rows import Problem
    from keyimport.cli.options import Options
    from keyimport.client import KeyImportClient
    from keyimport.v1.key_import_pb2 import WrappingAlgorithm, WrappingKeySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What was said on the command line.

    Attributes:
        options: output and connection.
        manifest: the manifest.
        journal: the journal, which need not be there yet.
        report: the file that takes the report; None for none.
        wrapping_algorithm: the name of one, or UNSPECIFIED.
        wrapping_key_spec: the name of one, or UNSPECIFIED.
        settling: seconds.
    """

    options: Options
    manifest: Path
    journal: Path
    report: Path | None
    wrapping_algorithm: str
    wrapping_key_spec: str
    settling: float

    def run(self) -> Exit:
        """Do it; the exit code.

        Raises:
            CommandFailed: something is wrong with what was said, and nothing was sent; or the journal failed.
            KeyImportError: no broker answers, and nothing was sent.
        """
        self._require_report()
        client = self.options.client()
        try:
            # A manifest with faults leaves no journal behind. Where there is one, it says which files may be gone.
            look = None if self.journal.exists() else partial(self._faults, known={})
            manifest = manifests.read(self.manifest, look)
            with Journal(self.journal, manifest.sha256) as journal:
                known = histories(journal.entries)
                self._check(manifest, known)
                if journal.dropped:
                    note = "the journal's last line was torn and is dropped; what it told is found out again"
                    output.note(note, as_json=self.options.json)
                return asyncio.run(self._import(client, manifest, journal, known))
        except ManifestRefused as error:
            return self._refuse(error)
        except JournalError as error:
            code = Exit.INTERNAL if isinstance(error, JournalFailed) else Exit.USAGE
            raise CommandFailed(str(error), code=code, next_step="Nothing more was sent.") from error

    async def _import(
        self, client: KeyImportClient, manifest: Manifest, journal: Journal, known: Mapping[str, History]
    ) -> Exit:
        algorithm, spec = self._wrapping()
        bar = sys.stderr.isatty() and not self.options.json
        display: Display = Bar() if bar else Lines(as_json=self.options.json)
        async with client:
            run = Run(
                client=client,
                journal=journal,
                manifest=manifest,
                known=known,
                settling=timedelta(seconds=self.settling),
                wrapping_algorithm=algorithm,
                wrapping_key_spec=spec,
                told=display.told,
            )
            try:
                async with display.shown(run), telling_of_the_wait(client, seconds=GREETING_SECONDS, say=display.say):
                    await _until_done(run, display)
            finally:
                summary.show(run.items, journal=self.journal, file=self.report, as_json=self.options.json)
        return summary.exit_of(run.items)

    def _check(self, manifest: Manifest, known: Mapping[str, History]) -> None:
        if faults := list(self._faults(manifest, known)):
            raise ManifestRefused(faults)

    def _faults(self, manifest: Manifest, known: Mapping[str, History]) -> Iterator[Problem]:
        """What may have changed since an earlier run, for the rows that it has not imported."""
        algorithm, spec = self._wrapping()
        now = datetime.now(UTC)
        for row in manifest.rows:
            history = known.get(row.key_id, History())
            # What was sent is found out first: the person may have destroyed the file of what is imported.
            if not (history.imported or history.open_import):
                yield from sources.problems(
                    manifest, row, own_file=history.generating, algorithm=algorithm, spec=spec, now=now
                )

    def _refuse(self, refused: ManifestRefused) -> Exit:
        failure = Failure(
            code=Exit.USAGE,
            message=f"{self.manifest}: the manifest has faults, and nothing was sent",
            next_step="Mend it, and run the command again.",
        )
        for problem in refused.problems:
            output.note(f"{self.manifest}: {problem}", as_json=self.options.json)
        output.tell(failure, as_json=self.options.json, problems=[asdict(problem) for problem in refused.problems])
        return failure.code

    def _wrapping(self) -> tuple[WrappingAlgorithm.ValueType, WrappingKeySpec.ValueType]:
        return algorithm_number(self.wrapping_algorithm), spec_number(self.wrapping_key_spec)

    def _require_report(self) -> None:
        if self.report and self.report.suffix.lower() not in reports.SUFFIXES:
            raise CommandFailed("--report: the name ends neither in .csv nor in .json", code=Exit.USAGE)
        if self.report and not os.access(self.report.parent, os.W_OK | os.X_OK):
            raise CommandFailed(f"--report: {self.report.parent} cannot be written to", code=Exit.USAGE)
        if self.report and self.report.resolve() in (self.manifest.resolve(), self.journal.resolve()):
            raise CommandFailed("--report: the report would overwrite the manifest or the journal", code=Exit.USAGE)


async def _until_done(run: Run, display: Display) -> None:
    """Run to the end, to the first ^C and what is under way then, or to the second ^C at once."""
    work = asyncio.ensure_future(run.run())
    async with _interrupts(run, work, display):
        await asyncio.wait({work})
    if not work.cancelled():
        work.result()


@asynccontextmanager
async def _interrupts(run: Run, work: asyncio.Future[None], display: Display) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            work.cancel()
            return
        stopping = True
        run.stop()
        display.say("stopping: imports under way are finished and noted; once more stops at once")

    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
