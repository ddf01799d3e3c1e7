"""Stopping when the system asks for it."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked this process to stop. No `except Exception` on the way holds it up."""


@contextmanager
def until_stopped() -> Generator[None]:
    """A block that a stop signal ends without an error, wherever it stands; its clean-up is not interrupted again.

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
    raise Stopped
