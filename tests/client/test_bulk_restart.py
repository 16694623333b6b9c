"""A bulk import outlives the broker's restarts: a stream that breaks off is asked for again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from keyimport.bulk.items import Phase
from keyimport.bulk.journal import Journal
from keyimport.bulk.manifest import read
from keyimport.bulk.run import Run
from tests.client.fake_broker import KEY_ARN, Failure

if TYPE_CHECKING:
    from pathlib import Path

    from keyimport import KeyImportClient
    from tests.client.fake_broker import FakeBroker

BATCH = "BatchGetParametersForImport"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_stream_that_a_restart_breaks_off_is_asked_for_again(
    code: grpc.StatusCode, broker: FakeBroker, client: KeyImportClient, tmp_path: Path
) -> None:
    """The key it was for is neither given up nor asked for twice once it has its set."""
    (tmp_path / "key.bin").write_bytes(bytes(range(32)))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"key_id,material,form,never_expires\n{KEY_ARN},key.bin,raw,true\n")
    broker.fail(BATCH, Failure(code=code, trailer=None))

    with Journal(tmp_path / "journal", read(manifest).sha256) as journal:
        run = Run(client=client, journal=journal, manifest=read(manifest), known={}, settling=timedelta())
        await run.run()

    assert [item.phase for item in run.items] == [Phase.DONE]
    assert [taken.request.key_id for taken in broker.imports] == [KEY_ARN]
    assert broker.calls.count(BATCH) == 2
