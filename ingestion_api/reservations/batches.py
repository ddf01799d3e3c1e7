"""Group commit: requests to reserve that come while a transaction runs share the next one, a tenant's own each.

So a thousand requests a second for one limit lock its row some tens of times a second, and wait for the disk as often.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

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

#: How long GET /v1/reservations/{id} knows what has ended.
KEPT = timedelta(days=7)
SWEEP_SECONDS = 5
SWEPT_SHARE = 2  # of what was made since the last sweep: the table shrinks faster than it grows
MIN_SWEPT = 100
MAX_SWEPT = 10_000

_log = structlog.get_logger("meterline.api")


@dataclass(slots=True)
class _Waiting:
    asked: Asked
    answered: Future[Outcome] = field(default_factory=Future)


class ReserveBatches:
    """One a process; for any threads and event loops."""

    def __init__(self, database: Database, settings: Settings, teller: HoldTeller) -> None:
        self._database = database
        self._teller = teller
        self._settings = settings
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[_Waiting]] = {}  # by tenant; a tenant that is in here has a thread
        self._count = 0
        self._pool = ThreadPoolExecutor(MAX_TRANSACTIONS, "reserve")
        self._made = 0
        self._swept_at = time.monotonic()

    def submit(self, tenant_id: str, asked: Asked) -> Future[Outcome]:
        """Decide on it in one of the next transactions. Raises Retry when too many wait already."""
        waiting = _Waiting(asked)
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
        self._pool.shutdown()

    def _run(self, tenant_id: str) -> None:
        """One batch of a tenant; when more waits, it is the turn of other tenants first."""
        with self._lock:
            queue = self._waiting[tenant_id]
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            self._count -= len(batch)
        wanted = [each for each in batch if each.answered.set_running_or_notify_cancel()]
        if wanted:
            self._decide(tenant_id, wanted)
        with self._lock:
            if not self._waiting[tenant_id]:
                del self._waiting[tenant_id]
                return
        self._pool.submit(self._run, tenant_id)

    def _decide(self, tenant_id: str, batch: Sequence[_Waiting]) -> None:
        asked = [each.asked for each in batch]
        try:
            outcomes, held_until = reserve_all(self._database, asked, tenant_id=tenant_id, settings=self._settings)
        except Exception as error:  # whatever it is, it is the answer of all that wait for it
            for each in batch:
                each.answered.set_exception(error)
            return
        if held_until:
            self._teller.tell(held_until)
        for each, outcome in zip(batch, outcomes, strict=True):
            each.answered.set_result(outcome)
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
