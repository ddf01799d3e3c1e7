"""Which balances have changed of late, in order: what a stream that was broken off has missed."""

import secrets
import threading
from collections import deque
from collections.abc import Iterable
from itertools import islice

Pair = tuple[str, str]  # customer and feature, by id

MAX_CHANGES = 100_000


class ChangeRing:
    """The newest changes, numbered from 1. Written by any thread, read by any.

    A place is `<process>-<number>`: in another process, or once it has fallen out, it means nothing.
    """

    def __init__(self, size: int = MAX_CHANGES) -> None:
        self._process = secrets.token_hex(6)
        self._changes: deque[Pair] = deque(maxlen=size)
        self._last = 0
        self._lock = threading.Lock()

    @property
    def last(self) -> int:
        """The number of the newest change."""
        return self._last

    def add(self, pairs: Iterable[Pair]) -> None:
        """These have just changed."""
        with self._lock:
            for pair in pairs:
                self._changes.append(pair)
                self._last += 1

    def since(self, number: int) -> tuple[int, dict[Pair, None]] | None:
        """What has changed after that, each once, and the number of the newest; None: not all of it is known."""
        with self._lock:
            missed = self._last - number
            if missed > len(self._changes) or missed < 0:
                return None
            return self._last, dict.fromkeys(islice(self._changes, len(self._changes) - missed, None))

    def place(self, number: int) -> str:
        """How a place is written."""
        return f"{self._process}-{number}"

    def number_of(self, place: str | None) -> int | None:
        """The number of a place of this process; None: of none."""
        process, _, number = (place or "").partition("-")
        return int(number) if process == self._process and number.isascii() and number.isdigit() else None
