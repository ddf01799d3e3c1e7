"""Flows as processes that start in a blink: forked off a server that has imported everything already.

It is `flows.__main__.main` with an environment of its own, all the way to the exit status.
"""

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from infra import crash_points

PR_SET_PDEATHSIG = 1  # of Linux's prctl

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.flow_process", "flows.__main__"])


def _main(environment: dict[str, str], log: str) -> None:
    from flows.__main__ import main  # the server has imported it before

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a test run that is killed leaves no flow behind
    os.environ |= environment
    importlib.reload(crash_points)  # it reads the environment when it is imported
    with Path(log).open("wb") as output:
        os.dup2(output.fileno(), 2)
    sys.exit(main())


class FlowProcess:
    """One flow. `log` is where its standard error goes."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        self._process: BaseProcess = _context.Process(target=_main, args=(environment, str(log)))
        self._process.start()

    def wait(self, seconds: float) -> int:
        """Its exit status; below zero the number of the signal that killed it."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"the flow has not ended in {seconds} s: {self.logged()}"
        return self._process.exitcode

    def terminate(self) -> None:
        """End it as a supervisor would."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        self._process.join()

    def logged(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""
