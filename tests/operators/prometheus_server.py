"""A real Prometheus of one's own on the loopback, which scrapes a target each second."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession

from demo.broker_process import end
from tests.redis_server import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_START_SECONDS = 20.0


class PrometheusError(Exception):
    """It did not come up, or did not take a question; the message is what it said."""


class Prometheus:
    """The server itself; `prometheus()` starts one."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, now.

        Raises:
            PrometheusError: the expression cannot be evaluated.
        """
        answer = await self._ask("query", query=expression)
        samples: list[dict[str, Any]] = answer["result"]
        return samples

    async def metric_names(self) -> set[str]:
        """Every metric that it has a sample of."""
        return set(await self._ask("label/__name__/values"))

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerting rules, each with its health."""
        groups = (await self._ask("rules", type="alert"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            async with self._session.get(f"{self._url}/-/ready") as response:
                return response.ok
        except ClientError:
            return False

    async def _ask(self, what: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{what}", params=parameters) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise PrometheusError(f"{parameters}: {answer['error']}")
        return answer["data"]


@asynccontextmanager
async def prometheus(target: str, *, job: str, rules: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus until the context is left.

    Args:
        target: HOST:PORT of what it scrapes.
        job: the name of the scrape job.
        rules: a file of alerting rules, evaluated each second.

    Raises:
        PrometheusError: it did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="keybroker-prometheus-") as directory:
        home, port = Path(directory), free_port()
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [target]}]}],
        }
        (home / "prometheus.yml").write_text(json.dumps(configuration))  # which is YAML, too
        with (home / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home,
            )
        try:
            async with ClientSession() as session:
                server = Prometheus(session, f"http://127.0.0.1:{port}")
                for _ in range(int(_START_SECONDS / 0.1)):
                    if process.returncode is not None or await server.ready():
                        break
                    await asyncio.sleep(0.1)
                if process.returncode is not None or not await server.ready():
                    raise PrometheusError((home / "log").read_text(errors="replace"))
                yield server
        finally:
            await end(process)
