"""How far the usage flow is behind, and how long answers wait for it.

On one machine an API that takes all the CPU would leave none to the flow. So answers wait a little while the flow
works and is behind, the longer the further. A flow that stands still gets no such help: the log holds what comes.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from starlette.concurrency import run_in_threadpool

from infra.metrics import INGEST_DELAY, INGEST_FLOW_LAG
from infra.postgres.pool import Database
from infra.postgres.shards import counters_as_of

LOOK_SECONDS = 1.0
STILL_SECONDS = 5  # a flow that has not moved for so long is not working
MAX_DELAY_SECONDS = 0.5
FULL_DELAY_FACTOR = 6  # so many times the bearable lag make answers wait for MAX_DELAY_SECONDS

_log = structlog.get_logger("meterline.api")


class LagWatch:
    """Looks once a second while `run` runs. `delay_seconds` is what each answer has to wait for now."""

    def __init__(
        self,
        database: Database,
        *,
        topic: str,
        partitions: int,
        bearable_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self.delay_seconds = 0.0
        self._database = database
        self._topic = topic
        self._partitions = partitions
        self._bearable_seconds = bearable_seconds
        self._clock = clock
        self._as_of: datetime | None = None
        self._moved_at = clock()

    async def run(self) -> None:
        """Look until cancelled; does nothing when no lag is too much (`bearable_seconds` is 0)."""
        while self._bearable_seconds > 0:
            try:
                as_of = await run_in_threadpool(self._read)
            except Exception as error:  # whatever it is, events are taken all the same
                _log.warning("the flow's lag is unknown", reason=repr(error))
                as_of = None
            self.look(as_of, self._clock())
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, as_of: datetime | None, now: datetime) -> None:
        """Take in what the counters are complete up to; None: unknown."""
        if as_of != self._as_of:
            self._as_of, self._moved_at = as_of, now
        lag_seconds = 0.0 if as_of is None else max((now - as_of).total_seconds(), 0.0)
        works = now - self._moved_at < timedelta(seconds=STILL_SECONDS)
        self.delay_seconds = self._delay(lag_seconds) if works else 0.0
        INGEST_FLOW_LAG.set(lag_seconds)
        INGEST_DELAY.set(self.delay_seconds)

    def _delay(self, lag_seconds: float) -> float:
        """From nothing at the bearable lag, evenly up to the most at FULL_DELAY_FACTOR times of it."""
        share = (lag_seconds / self._bearable_seconds - 1) / (FULL_DELAY_FACTOR - 1)
        return MAX_DELAY_SECONDS * min(max(share, 0.0), 1.0)

    def _read(self) -> datetime | None:
        with self._database.transaction() as connection:
            return counters_as_of(connection, topic=self._topic, partitions=self._partitions)
