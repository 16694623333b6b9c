"""The `keyimport` process in a folder of its own, and a broker for it to talk to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.command import Command

# The broker of the client's tests, with its keys; pytest takes fixtures from where they are named.
from tests.client.conftest import address, broker, materials, private_keys, public_keys, socket

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "broker", "command", "materials", "offline", "private_keys", "public_keys", "socket"]


@pytest.fixture
def command(tmp_path: Path, address: str) -> Command:
    """Runs `keyimport` against the broker, in an empty folder."""
    return Command(folder=tmp_path, target=address)


@pytest.fixture
def offline(tmp_path: Path, socket: str) -> Command:
    """Runs `keyimport` where no broker listens, in an empty folder."""
    return Command(folder=tmp_path, target=socket)
