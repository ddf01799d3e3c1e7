"""Stopping when the system asks for it."""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked this process to stop. No `except Exception` on the way holds it up."""


@contextmanager
def until_stopped() -> Generator[None]:
    """A block that a stop signal ends without an error, wherever it stands. Its clean-up is not interrupted again,
    but for a second Ctrl-C, which ends the process at once.

    For the main thread. The handlers that stood before are put back.
    """
    before = {number: signal.signal(number, _stop) for number in STOP_SIGNALS}
    try:
        yield
    except Stopped:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(_number: int, _frame: FrameType | None) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end_at_once)
    raise Stopped


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    leave(128 + number)


def leave(status: int) -> NoReturn:
    """End the process without waiting for threads that may never end, such as those of a download."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
