"""Group commit: requests to reserve that come while a transaction runs share the next one, a tenant's own each.

So a thousand requests a second for one limit lock its row some tens of times a second, and wait for the disk as often.
"""

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog

from infra.postgres.pool import Database
from infra.postgres.reservations import sweep
from infra.postgres.shards import counters_as_of
from infra.settings import Settings
from ingestion_api.reservations.reserve import Asked, Outcome, reserve_all
from ingestion_api.reservations.tell import HoldTeller
from schemas.errors import Retry
from schemas.ids import Prefix, first_id

MAX_WAITING = 4_000  # requests, of all tenants
MAX_BATCH = 400
MAX_TRANSACTIONS = 4  # at once, each of another tenant

#: How long GET /v1/reservations/{id} knows a reservation, from its creation on: longer than any is held uncommitted.
KEPT = timedelta(days=8)
SWEEP_SECONDS = 5
SWEPT_SHARE = 2  # of what was made since the last sweep: the table shrinks faster than it grows
MIN_SWEPT = 100
MAX_SWEPT = 10_000

_log = structlog.get_logger("meterline.api")


@dataclass(slots=True)
class _Waiting:
    asked: Asked
    answered: asyncio.Future[Outcome]


class ReserveBatches:
    """One a process; for any event loops."""

    def __init__(self, database: Database, settings: Settings, teller: HoldTeller) -> None:
        self._database = database
        self._teller = teller
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Waiting]] = {}  # by tenant; a tenant that is in here has a thread
        self._count = 0
        self._is_closing = False
        self._pool = ThreadPoolExecutor(MAX_TRANSACTIONS, "reserve")
        self._made = 0
        self._swept_at = time.monotonic()

    def submit(self, tenant_id: str, asked: Asked) -> asyncio.Future[Outcome]:
        """Decide on it in one of the next transactions. Raises Retry when too many wait already."""
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        with self._lock:
            if self._count >= MAX_WAITING:
                raise Retry("entitlement.overloaded", "Too many reservations wait to be decided; try again.")
            self._count += 1
            queue = self._waiting.get(tenant_id)
            if queue is not None:
                queue.append(waiting)
                return waiting.answered
            self._waiting[tenant_id] = deque([waiting])
        self._pool.submit(self._run, tenant_id)
        return waiting.answered

    def close(self) -> None:
        """Decide on what waits; then no more."""
        with self._lock:
            self._is_closing = True
        self._pool.shutdown()

    def _run(self, tenant_id: str) -> None:
        """One batch of a tenant; when more waits, it is the turn of other tenants first."""
        while True:
            with self._lock:
                queue = self._waiting[tenant_id]
                batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
                self._count -= len(batch)
            wanted = [each for each in batch if not each.answered.done()]  # nobody waits for it any more
            try:
                if wanted:
                    self._decide(tenant_id, wanted)
            except Exception:  # a fault of ours after the decision: whoever comes next must have a turn all the same
                _log.exception("a batch of reservations did not come to its end")
            with self._lock:
                if not self._waiting[tenant_id]:
                    del self._waiting[tenant_id]
                    return
                if not self._is_closing:
                    self._pool.submit(self._run, tenant_id)
                    return

    def _decide(self, tenant_id: str, batch: Sequence[_Waiting]) -> None:
        asked = [each.asked for each in batch]
        try:
            outcomes, held_until = reserve_all(self._database, asked, tenant_id=tenant_id, settings=self._settings)
        except Exception as error:  # whatever it is, it is the answer of all that wait for it
            _go_on(batch, [partial(each.answered.set_exception, error) for each in batch])
            return
        if held_until:
            self._teller.tell(held_until)
        _go_on(batch, [partial(each.answered.set_result, what) for each, what in zip(batch, outcomes, strict=True)])
        self._sweep_if_due(len(batch), now=max(each.now for each in asked))

    def _sweep_if_due(self, made: int, *, now: datetime) -> None:
        with self._lock:
            self._made += made
            if time.monotonic() < self._swept_at + SWEEP_SECONDS:
                return
            self._swept_at = time.monotonic()
            limit = min(MIN_SWEPT + self._made * SWEPT_SHARE, MAX_SWEPT)
            self._made = 0
        try:
            with self._database.transaction() as connection:
                as_of = counters_as_of(
                    connection, topic=self._settings.events_topic, partitions=self._settings.events_partitions
                )
                before_id = first_id(Prefix.RESERVATION, now - KEPT)
                sweep(connection, before_id=before_id, now=now, as_of=as_of, limit=limit)
        except Retry as error:  # nothing hangs on it; the next sweep does it
            _log.warning("old reservations not swept", reason=error.detail)


def _go_on(batch: Sequence[_Waiting], settle: Sequence[Callable[[], None]]) -> None:
    """Let those that wait go on, each in its own event loop, which is woken once for all: that costs as much as the
    rest of an answer."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Outcome], Callable[[], None]]]]
    by_loop = defaultdict(list)
    for each, settle_one in zip(batch, settle, strict=True):
        by_loop[each.answered.get_loop()].append((each.answered, settle_one))
    for loop, waiting in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle_all, waiting)


def _settle_all(waiting: Sequence[tuple[asyncio.Future[Outcome], Callable[[], None]]]) -> None:
    for answered, settle in waiting:
        if not answered.done():  # somebody still waits
            settle()
