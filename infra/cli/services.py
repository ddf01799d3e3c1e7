"""`meterline api`, `meterline flow`, `meterline worker`: one service each, as a supervisor would run it.

The command becomes the service: the same process, so that signals and the exit status are the service's own.
"""

import os
import sys
from typing import NoReturn


def api() -> None:
    """Serve HTTP until SIGTERM."""
    _become("ingestion_api")


def flow() -> None:
    """Meter events until SIGTERM."""
    _become("flows")


def worker() -> None:
    """Bill until SIGTERM."""
    _become("billing_workflows")


def _become(module: str) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - this very Python, without a shell
