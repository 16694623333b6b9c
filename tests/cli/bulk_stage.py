"""Keys at the KMS double, a manifest that names them, and runs over it in the test's own process."""

from __future__ import annotations

import csv
import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from keyimport import KeyImportClient
from keyimport.bulk.entries import Entry, histories
from keyimport.bulk.journal import Journal
from keyimport.bulk.manifest import read
from keyimport.bulk.run import Run
from keyimport.v1.key_import_pb2 import WrappingKeySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.kms_double import KmsDouble

IMPORT = "ImportKeyMaterial"
GET = "GetParametersForImport"


@dataclass(slots=True, kw_only=True)
class Stage:
    """A manifest and what it is about.

    Attributes:
        folder: where the manifest and the materials are.
        double: the KMS that has the keys.
        target: the broker; empty where nothing is run in this process.
        materials: by key ARN, what is to be imported.
    """

    folder: Path
    double: KmsDouble
    target: str = ""
    materials: dict[str, bytes] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.folder / "manifest.csv"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.folder / "manifest.csv.journal"

    def prepare(self, keys: int, **cells: str) -> None:
        """Make keys without material, a file of material for each, and the manifest."""
        rows = []
        for number in range(keys):
            arn = self.double.add_key()
            self.materials[arn] = secrets.token_bytes(32)
            (self.folder / f"{number}.bin").write_bytes(self.materials[arn])
            rows.append({"key_id": arn, "material": f"{number}.bin", "form": "raw", "never_expires": "true"} | cells)
        write_csv(self.manifest, rows)

    async def run(self, *, settling: float = 0.3, begun: Callable[[Run], None] = lambda _run: None, **more: Any) -> Run:
        """One run to its end; `begun` is called with it before it begins."""
        manifest = read(self.manifest)
        with Journal(self.journal, manifest.sha256) as journal:
            async with KeyImportClient(self.target, timeout=10) as client:
                run = Run(
                    client=client,
                    journal=journal,
                    manifest=manifest,
                    known=histories(journal.entries),
                    settling=timedelta(seconds=settling),
                    wrapping_key_spec=WrappingKeySpec.WRAPPING_KEY_SPEC_RSA_2048,
                    **more,
                )
                begun(run)
                await run.run()
        return run

    def lines(self) -> list[dict[str, str]]:
        """The journal's lines."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()]

    def events(self, arn: str) -> list[str]:
        """The events of a key, in order."""
        return [line["event"] for line in self.lines()[1:] if line["key_id"] == arn]

    def at_kms(self) -> dict[str, bytes | None]:
        """By key ARN, the material the key holds."""
        return {arn: self.double.material(arn) for arn in self.materials}

    def imports(self) -> dict[str, int]:
        """By key ARN, how often KMS was asked to import."""
        asked = [call.key_id for call in self.double.calls if call.operation == IMPORT]
        return {arn: asked.count(arn) for arn in self.materials}

    def once_each(self) -> dict[str, int]:
        """What `imports` is to be in the end."""
        return dict.fromkeys(self.materials, 1)

    def append(self, *entries: Entry) -> None:
        """Write to the journal what an earlier run would have."""
        with Journal(self.journal, read(self.manifest).sha256) as journal:
            for entry in entries:
                journal.append(entry)


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a manifest with the columns of its first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def outcomes(run: Run) -> list[str]:
    """What became of each row."""
    return [item.outcome.value for item in run.items]
