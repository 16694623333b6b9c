"""Runs an image's files as a container runtime would run them, on a machine that has no such daemon.

What is enforced: a mount namespace whose root is the image's, read-only; namespaces for processes and IPC, so that the
command is process 1; the image's numeric user, with no capabilities and no way to new privileges; the image's
environment and nothing of this process's. What is not: seccomp and cgroups. The network is the machine's, as with
`--network host`, for the embedded KMS is on its loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping, Sequence

SERVING_WITHIN = 60.0
ENDS_WITHIN = 30.0

# Process 1 of the new namespaces until it becomes the command. $1 root, $2 sockets, $3 settings, $4 user:group,
# $5 ro or rw for the root, $6 for the sockets.
# Its environment is the image's already, whose PATH leads to nothing out here.
_ENTER = """
set -eu
inside=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount --make-rprivate /
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount -t tmpfs -o mode=0755 tmpfs "$1/dev"
for device in null zero urandom random; do : >"$1/dev/$device"; mount --bind "/dev/$device" "$1/dev/$device"; done
mount -o remount,ro "$1/dev"
mount --bind "$2" "$1/run/keybroker"
mount -o "remount,bind,$6" "$1/run/keybroker"
mount --bind "$3" "$1/etc/keybroker"
mount -o remount,bind,ro "$1/etc/keybroker"
mount -o "remount,bind,$5" "$1"
root=$1 user=${4%:*} group=${4#*:}
shift 6
cd "$root"
setpriv=$(command -v setpriv) unshare=$(command -v unshare)
unset SHLVL OLDPWD PWD
PATH=$inside
exec "$setpriv" --no-new-privs "$unshare" --root="$root" --wd=/ --setgid="$group" --setuid="$user" -- "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image laid out by scripts/image-export."""

    directory: Path

    @property
    def root(self) -> Path:
        """Its files."""
        return self.directory / "root"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration, as the builder wrote it."""
        config: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return config

    @property
    def environment(self) -> dict[str, str]:
        """Its environment."""
        return dict(variable.split("=", 1) for variable in self.config["Env"])

    @property
    def command(self) -> list[str]:
        """What it runs unless told otherwise."""
        return [*self.config["Entrypoint"], *self.config["Cmd"]]

    @property
    def site_packages(self) -> Path:
        """Where its distributions are."""
        (found,) = self.root.glob("opt/keybroker/lib/python3.*/site-packages")
        return found

    def program(self, name: str) -> str:
        """A command's path within it, found as execvp would."""
        (found,) = (
            f"{directory}/{name}"
            for directory in self.environment["PATH"].split(":")
            if os.path.lexists(self.root / directory.lstrip("/") / name)  # a link may lead elsewhere out here
        )
        return found


@dataclass(kw_only=True)
class Container:
    """A command that runs in the image."""

    image: Image
    process: Process
    home: Path
    log: Path
    started: float = field(default_factory=time.monotonic)
    told_at_end: str = ""

    @property
    def socket(self) -> str:
        """The broker's socket, as a target on this side."""
        return f"unix:{self.home}/sockets/keybroker.sock"

    @property
    def pid(self) -> int:
        """The command's process, by its number on this side; `unshare` waits above it."""
        above = self.process.pid
        children = Path(f"/proc/{above}/task/{above}/children").read_text().split()
        return int(children[0])

    def status(self, name: str) -> str:
        """A field of the command's /proc/PID/status."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (value,) = (line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))
        return value

    def told(self) -> str:
        """Everything it has written."""
        return self.log.read_text(errors="replace")

    async def serving(self, target: str | None = None) -> float:
        """Waits for health to say SERVING.

        Returns:
            The seconds since the command was started.
        """
        async with grpc.aio.insecure_channel(
            target or self.socket,
            options=[("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 20)],
        ) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            with suppress(TimeoutError):
                async with asyncio.timeout(SERVING_WITHIN):
                    while self.process.returncode is None:
                        with suppress(grpc.aio.AioRpcError):
                            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                                return time.monotonic() - self.started
                        await asyncio.sleep(0.005)
        raise AssertionError(f"not SERVING:\n{self.told()}")

    def send(self, number: signal.Signals) -> None:
        """Sends the command a signal."""
        os.kill(self.pid, number)

    async def ends(self) -> int:
        """Waits for its end.

        Returns:
            The exit code.
        """
        async with asyncio.timeout(ENDS_WITHIN):
            return await self.process.wait()


@asynccontextmanager
async def container(
    image: Image,
    *,
    settings: str = "",
    command: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    beside: Container | None = None,
    shared: bool = False,
    user: str | None = None,
    root: Literal["ro", "rw"] = "ro",
    mount: Literal["ro", "rw"] = "rw",
) -> AsyncIterator[Container]:
    """Runs a command in the image, its own one by default; at the end of the block it is gone.

    Args:
        image: the image.
        settings: what stands in /etc/keybroker/keybroker.toml.
        command: a program of the image and its arguments.
        environment: added to the image's.
        beside: another container, whose sockets it shares.
        shared: whether everybody may write the sockets' directory, which is root's.
        user: in place of the image's, as UID:GID.
        root: whether its root can be written.
        mount: whether the sockets' directory can.
    """
    with tempfile.TemporaryDirectory(prefix="kb-") as directory:  # short: a socket's path has 107 bytes
        here = Path(directory)
        here.chmod(0o755)
        for name in ("sockets", "etc"):
            (here / name).mkdir(mode=0o755)
        sockets = (beside.home if beside else here) / "sockets"
        if shared:
            sockets.chmod(0o777)
        elif not beside:
            os.chown(sockets, *map(int, image.config["User"].split(":")))
        (here / "etc" / "keybroker.toml").write_text(settings)
        program, *arguments = command or image.command
        log = here / "log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(_host("unshare"), "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL"),
                *(
                    _host("bash"),
                    "-c",
                    _ENTER,
                    "enter",
                    image.root,
                    sockets,
                    here / "etc",
                    user or image.config["User"],
                    root,
                    mount,
                ),
                *(image.program(program), *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=image.environment | dict(environment or {}),
            )
        running = Container(image=image, process=process, home=here, log=log)
        try:
            yield running
        finally:
            if process.returncode is None:
                # Not by --kill-child alone: the kernel forgets that wish when the command changes its user.
                with suppress(ProcessLookupError, FileNotFoundError, IndexError):
                    running.send(signal.SIGKILL)
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
            running.told_at_end = running.told()


def _host(program: str) -> str:
    path = shutil.which(program)
    assert path, f"{program} is missing on this machine"
    return path
