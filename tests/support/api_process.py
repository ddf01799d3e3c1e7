"""API services as processes of their own, as many as a test wants, over the same stores."""

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from infra.local.ports import choose
from infra.settings import Settings

START_SECONDS = 60
NAMES = ("postgres_dsn", "clickhouse_url", "kafka_bootstrap", "events_topic", "balances_topic", "system_topic")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiProcess:
    """One process, and where it serves."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


@contextmanager
def api_process(settings: Settings, root_key: str, **overrides: str) -> Generator[ApiProcess]:
    """A running API; killed at the end. `overrides` are settings by their lower-case names."""
    port = choose(set())
    environment: dict[str, Any] = {f"METERLINE_{name.upper()}": str(getattr(settings, name)) for name in NAMES}
    environment |= {"METERLINE_API_PORT": str(port), "METERLINE_ROOT_KEY": root_key, "METERLINE_LOG_LEVEL": "warning"}
    environment |= {f"METERLINE_{name.upper()}": value for name, value in overrides.items()}
    with subprocess.Popen([sys.executable, "-m", "ingestion_api"], env=os.environ | environment) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process)
            yield ApiProcess(url=url, process=process)
        finally:
            process.kill()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx2.get(url + "/healthz").status_code == 200:
                return
        except httpx2.TransportError:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
