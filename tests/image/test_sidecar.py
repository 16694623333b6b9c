"""The sidecar of deploy/kubernetes, in an emptyDir as kubelet makes it: root's, and for everybody to write."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from demo.embedded_kms import ACCOUNT, aws_environment
from tests.image.conftest import SETTINGS
from tests.image.container import container

if TYPE_CHECKING:
    from tests.image.container import Image

MANIFEST = Path("deploy/kubernetes/sidecar/deployment.yaml")
SOCKET = "/run/keybroker/socket/keybroker.sock"

# As another user than the broker, in the group of the socket; the mount is read-only.
AS_THE_APPLICATION = """
import os, socket
with socket.socket(socket.AF_UNIX) as broker:
    broker.connect("/run/keybroker/socket/keybroker.sock")
for attempt in (
    lambda: os.rename("/run/keybroker/socket", "/run/keybroker/mine"),
    lambda: os.unlink("/run/keybroker/socket/keybroker.sock"),
    lambda: os.mkdir("/run/keybroker/mine"),
):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("the application can change the directory")
"""


async def test_the_broker_serves_in_the_directory_made_for_it(image: Image, kms_endpoint: str) -> None:
    """The init container's command makes a directory the broker accepts, again and again."""
    command = json.loads(re.findall(r"command: (\[.*\])", MANIFEST.read_text())[0])
    settings = SETTINGS.format(endpoint=kms_endpoint).replace("/run/keybroker/keybroker.sock", SOCKET)
    async with container(image, command=command, shared=True) as made:
        assert await made.ends() == 0
        async with container(image, command=command, beside=made) as again:
            assert await again.ends() == 0
        environment = aws_environment(ACCOUNT)
        async with container(image, settings=settings, environment=environment, beside=made) as broker:
            await broker.serving(f"unix:{made.home}/sockets/socket/keybroker.sock")
            async with container(
                image, command=["python", "-c", AS_THE_APPLICATION], beside=made, user="10001:65532", mount="ro"
            ) as app:
                assert await app.ends() == 0, app.told()
            broker.send(signal.SIGTERM)
            assert await broker.ends() == 0


async def test_the_broker_refuses_an_emptydir_itself(image: Image) -> None:
    """Without that directory it does not start, for everybody could put a socket in the place of its own."""
    settings = SETTINGS.format(endpoint="http://127.0.0.1:1")
    async with container(image, settings=settings, shared=True) as refused:
        assert await refused.ends() == 1
    assert "may be written by others" in refused.told_at_end
