"""Heartbeats of activities that run in threads."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from temporalio import activity

BEAT_SECONDS = 3


class Beat:
    """What an activity tells of itself while it runs. `details` go with each heartbeat, and to the next attempt."""

    def __init__(self) -> None:
        self.details: tuple[Any, ...] = ()


@contextmanager
def beating() -> Generator[Beat]:
    """Heartbeat from a thread of its own while the block runs, however long one query of it takes.

    A killed process stops beating, and its work is given to another; one that hangs ends at its start-to-close limit.
    """
    beat = Beat()
    done = threading.Event()
    context = copy_context()

    def run() -> None:
        while not done.wait(BEAT_SECONDS):
            context.run(activity.heartbeat, *beat.details)

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield beat
    finally:
        done.set()
        thread.join()
