"""Work beside the dataflow, in a thread of its own."""

import threading
from collections.abc import Callable


class Background:
    """Runs `work` until that ends, which it does soon after `stop` is set.

    When the work fails, the thread sets `stop` itself, and `close` says why.
    """

    def __init__(self, name: str, work: Callable[[], None], stop: threading.Event) -> None:
        self._work = work
        self._stop = stop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for what is in hand. Raises the thread's failure."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as failure:  # raised again by `close`
            self._failure = failure
            self._stop.set()
