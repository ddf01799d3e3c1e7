"""A `meterline dev` of a test's own, with embedded servers of its own, whose children are there to be killed."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import httpx2
import psutil

READY = "ready "
STOP_SECONDS = 60

#: What tells a child of `meterline dev` from the others, by the name that tests use.
COMMANDS = {
    "flow": "-m flows",
    "broker": "kafka.Kafka",
    "clickhouse": "infra.local.clickhouse_front",
    "postgres": "pginstall/bin/postgres",
    "api": "-m ingestion_api",
    "worker": "-m billing_workflows",
}


class OwnDev:
    """Use it as a context: it serves inside, and is stopped as by Ctrl-C at the end, which must end it with 0."""

    def __init__(self, data_dir: Path, **environment: str) -> None:
        self.data_dir = data_dir
        self.key = f"mtr_{secrets.token_hex(16)}"
        self.url = ""
        self._log = data_dir / "dev.log"
        self._environment = environment

    def __enter__(self) -> "OwnDev":
        command = [sys.executable, "-m", "infra.cli.app", "dev", "--port", "0", "--data-dir", str(self.data_dir)]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "--api-key", self.key],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | self._environment,
            )
        assert self._process.stdout is not None
        ready = next((line for line in self._process.stdout if line.startswith(READY)), None)
        assert ready is not None, f"dev ended before it was ready:\n{self.log()}"
        self.url = ready.removeprefix(READY).strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()  # of no effect on one that has ended; its children end with it
            self._process.stdout.close()
        if kind is None:
            assert status == 0, self.log()

    def client(self, **options: float) -> httpx2.Client:
        """A client with the operator's key. A server that is down is the caller's to wait for."""
        return httpx2.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=options.get("timeout", 30)
        )

    def process(self, name: str) -> psutil.Process | None:
        """The child that runs as this component now; None between two lives."""
        for child in psutil.Process(self._process.pid).children():
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue  # it ended while we looked
            if COMMANDS[name] in command:
                return child
        return None

    def kill(self, name: str) -> bool:
        """SIGKILL this component; False when it does not live at the moment."""
        child = self.process(name)
        if child is None:
            return False
        try:
            child.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")
