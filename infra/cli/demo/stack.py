"""Starts `meterline dev` for the demo, as a person would, and stops it."""

import secrets
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Retry

READY = "ready "
STOP_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A stack that serves. `wait` returns when it ends, by Ctrl-C or by itself."""

    url: str
    key: str
    process: subprocess.Popen[str]


@contextmanager
def running_stack(data_dir: Path) -> Generator[Running]:
    """The whole stack on free ports, its data in `data_dir`; stopped when the block ends. Its own lines go to stderr.

    Raises Retry when it ends before it serves; what it said stands above.
    """
    key = f"mtr_{secrets.token_hex(16)}"
    command = [sys.executable, "-m", "infra.cli.app", "dev", "--port", "0", "--data-dir", str(data_dir)]
    with subprocess.Popen([*command, "--api-key", key], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Running(url=_wait_ready(process), key=key, process=process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).strip()
    raise Retry("demo.no_stack", f"`meterline dev` ended with status {process.wait()} before it was ready")
