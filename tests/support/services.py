"""The three services over the run's stack, started by `meterline dev` as a user would."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from infra.settings import Settings

READY = "ready "
STOP_SECONDS = 40
NAMESPACE_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where the API serves, its operator's key, the process whose children the services are, and their stores."""

    url: str
    key: str
    process_id: int
    settings: Settings

    def client(self, key: str | None = None) -> httpx2.Client:
        """A client with the operator's key, or another."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30)

    def new_tenant_key(self) -> str:
        """The admin key of a tenant that nobody else uses."""
        with self.client() as operator:
            answer = operator.post("/v1/tenants", json={"name": "A tenant of its own"})
        assert answer.status_code == 201, answer.text
        return answer.json()["api_key"]


def make_namespace(settings: Settings) -> str:
    """A Temporal namespace of one's own: workers of other databases must not take its work."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    asyncio.run(_register(settings.temporal_address, name))
    return name


async def _register(address: str, name: str) -> None:
    client = await Client.connect(address)
    retention = Duration()
    retention.FromTimedelta(timedelta(days=1))
    request = RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=retention)
    await client.workflow_service.register_namespace(request)
    deadline = time.monotonic() + NAMESPACE_SECONDS
    while True:  # the server's parts learn of a new namespace one after another
        try:
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
            return
        except RPCError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


@contextmanager
def running_services(settings: Settings, data_dir: Path, **overrides: str) -> Generator[Services]:
    """`meterline dev` on a free port over servers that run already; stopped as by Ctrl-C, which must end it with 0."""
    key = f"mtr_{secrets.token_hex(16)}"
    environment = {
        "METERLINE_POSTGRES_DSN": settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
        "METERLINE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "METERLINE_TEMPORAL_ADDRESS": settings.temporal_address,
        "METERLINE_TEMPORAL_NAMESPACE": make_namespace(settings),
        "METERLINE_EVENTS_TOPIC": settings.events_topic,
        "METERLINE_BALANCES_TOPIC": settings.balances_topic,
        "METERLINE_SYSTEM_TOPIC": settings.system_topic,
        "METERLINE_BILLING_SWEEP_SECONDS": "1",
        **overrides,
    }
    command = [sys.executable, "-m", "infra.cli.app", "dev", "--port", "0", "--data-dir", str(data_dir)]
    log = data_dir / "dev.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--api-key", key], stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = next((line for line in process.stdout if line.startswith(READY)), None)
            assert ready is not None, f"dev ended before it was ready:\n{log.read_text()}"
            yield Services(url=ready.removeprefix(READY).strip(), key=key, process_id=process.pid, settings=settings)
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_SECONDS) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
