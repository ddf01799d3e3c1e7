"""A stack of a test's own, to be killed at will."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from infra.local import leftovers
from infra.settings import Settings

DEADLINE_SECONDS = 60
PAUSE_SECONDS = 0.05


class OwnStack:
    """`python -m infra.local` on a directory. `wrapper` stands before the command, e.g. to run it as another user."""

    def __init__(self, data_dir: Path, wrapper: Sequence[str] = (), **environment: str) -> None:
        self.data_dir = data_dir
        self.log_path = data_dir.with_suffix(".stderr")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "infra.local", "--data-dir", str(data_dir)],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )

    def settings(self) -> Settings:
        """Wait until it answers; its addresses."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        addresses: dict[str, Any] = json.loads(line)
        return Settings(**{name: value for name, value in addresses.items() if name in Settings.model_fields})

    def children(self) -> dict[str, psutil.Process]:
        """The main process of each component, by its name: the oldest, since a fork of it begins with its command."""
        words = {
            "postgres": "pginstall/bin/postgres",
            "kafka": "kafka.Kafka",
            "temporal": "start-dev",
            "clickhouse": "infra.local.clickhouse_front",
        }
        found: dict[str, psutil.Process] = {}
        processes = sorted((each for each, _ in leftovers.find(self.data_dir)), key=psutil.Process.create_time)
        for process in processes:
            with suppress(psutil.Error):  # gone by now
                command = " ".join(process.cmdline())
                found = {name: process for name, word in words.items() if word in command} | found
        return found

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def kill(self) -> None:
        self.process.kill()
        self._forget()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self._forget()

    def _forget(self) -> int:
        status = self.process.wait(DEADLINE_SECONDS)
        if self.process.stdout:
            self.process.stdout.close()
        return status


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until the condition holds; an exception counts as no. Fails after DEADLINE_SECONDS with the last of them."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        last: Exception | None = None
        try:
            if condition():
                return
        except Exception as error:
            last = error
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what} ({last})"
        time.sleep(PAUSE_SECONDS)
