"""Tests of the image itself: collected when KEYBROKER_IMAGE names one, as scripts/image-test sees to."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.embedded_kms import ACCOUNT, REGION, aws_environment, embedded_kms
from tests.image.container import Container, Image, container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

collect_ignore_glob = [] if "KEYBROKER_IMAGE" in os.environ else ["test_*.py"]

SETTINGS = f"""
[[listeners]]
address = "unix:/run/keybroker/keybroker.sock"
caller = "local"

[kms]
regions = ["{REGION}"]
account = "{ACCOUNT}"
endpoint = "{{endpoint}}"
requests_per_second = 100

[ops]
address = "127.0.0.1:0"
"""


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """The image's files, laid out."""
    with tempfile.TemporaryDirectory(prefix="kb-image-") as directory:
        subprocess.run(["scripts/image-export", directory], check=True)  # noqa: S603, S607 -- our own script
        yield Image(Path(directory))


@pytest.fixture
async def kms_endpoint() -> AsyncIterator[str]:
    """An embedded KMS."""
    async with embedded_kms() as endpoint:
        yield endpoint


@pytest.fixture
async def broker(image: Image, kms_endpoint: str) -> AsyncIterator[Container]:
    """The image's own command in front of the embedded KMS, not yet waited for."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            container(
                image,
                settings=SETTINGS.format(endpoint=kms_endpoint),
                environment=aws_environment(ACCOUNT),
            )
        )
