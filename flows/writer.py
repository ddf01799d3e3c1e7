"""The thread that brings judged batches into ClickHouse, several at a time, and then commits their intents.

An insert costs the same 30–50 ms of CPU for one row as for ten thousand, so batches wait a little and go together.
The queue in front is bounded: a slow ClickHouse slows the flow, and memory stays where it is.
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from flows.metrics import INSERT_SECONDS, PENDING_INTENTS
from flows.pace import gathering_seconds
from infra.clickhouse.client import Client
from infra.clickhouse.sink import insert_table
from infra.crash_points import crash_point
from infra.postgres.pool import PgConnection
from infra.postgres.shards import commit_intents, lock_shard, remove_committed
from schemas.errors import Retry

MAX_ROWS_WAITING = 300_000  # raw rows; also the most in one insert, unless a single batch has more
MAX_BATCHES_WAITING = 64
FULL_INSERT_ROWS = 100_000  # inserts of so many come in the longest interval
KEEP_COMMITTED_INTENTS = 10_000  # a few minutes at full rate: for a person who looks into what happened
REMOVE_EVERY_INTENTS = 1_000
REMOVE_AT_ONCE = 10_000
STOP_WAIT_SECONDS = 60

Table = Any  # a pyarrow.Table: pyarrow publishes no types


@dataclass(frozen=True, slots=True, kw_only=True)
class Storable:
    """Rows of one intent, or none (`seq` None): then only `until` moves on, behind what was submitted before it."""

    seq: int | None
    events: Table | None
    copies: Table | None
    usage: Table | None
    values: Table | None = None
    until: dict[int, datetime]
    redo: bool

    @property
    def rows(self) -> int:
        return 0 if self.events is None else self.events.num_rows


class Writer:
    """Stores what is submitted, in its order. The first failure stops it; every later call raises that failure."""

    def __init__(
        self,
        *,
        client: Client,
        connection: PgConnection,
        topic: str,
        shard: int,
        interval_seconds: float,
        on_stored: Callable[[Sequence[int]], None],
    ) -> None:
        self._client = client
        self._connection = connection
        self._topic = topic
        self._shard = shard
        self._interval_seconds = interval_seconds
        self._on_stored = on_stored
        # Rows of a redo come in other blocks than the first time, or their views may have been cut off between: a
        # token of this process alone lets them in. The tables' keys make the same rows collapse.
        self._process = uuid.uuid4().hex
        self._changed = threading.Condition()
        self._waiting: deque[Storable] = deque()
        self._storing = 0
        self._hurry = False
        self._closing = False
        self._failure: BaseException | None = None
        self._removed_below = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, batch: Storable) -> None:
        """Queue a batch; waits while the queue is full. Raises the thread's failure."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._has_room(batch))
            self._raise_failure()
            self._waiting.append(batch)
            self._changed.notify_all()
            self._report()

    def drain(self) -> None:
        """Wait until everything submitted is committed. Raises the thread's failure."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure or not (self._waiting or self._storing))
            self._hurry = False
            self._raise_failure()

    def is_idle(self) -> bool:
        """Whether everything submitted is committed. Raises the thread's failure."""
        with self._changed:
            self._raise_failure()
            return not (self._waiting or self._storing)

    def close(self) -> None:
        """Store what is left and end the thread. Raises the thread's failure, or Retry when it takes too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(STOP_WAIT_SECONDS)
        self._raise_failure()
        if self._thread.is_alive():
            raise Retry("store.unavailable", f"ClickHouse has not taken the last batches in {STOP_WAIT_SECONDS} s")

    def _has_room(self, batch: Storable) -> bool:
        rows = sum(waiting.rows for waiting in self._waiting)
        return not self._waiting or (rows + batch.rows <= MAX_ROWS_WAITING and len(self._waiting) < MAX_BATCHES_WAITING)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _report(self) -> None:
        PENDING_INTENTS.set(sum(batch.seq is not None for batch in self._waiting) + self._storing)

    def _run(self) -> None:
        try:
            while batches := self._take():
                started = time.monotonic()
                self._store(batches)
                INSERT_SECONDS.observe(time.monotonic() - started)
                with self._changed:
                    self._storing = 0
                    self._changed.notify_all()
                    self._report()
                self._wait_interval(started, sum(batch.rows for batch in batches))
        except BaseException as failure:  # the flow's own thread raises it at its next call
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _take(self) -> list[Storable]:
        """The batches that go together next; waits for the first. Empty: closing, and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            taken: list[Storable] = []
            rows = 0
            while self._waiting and (not taken or rows + self._waiting[0].rows <= MAX_ROWS_WAITING):
                rows += self._waiting[0].rows
                taken.append(self._waiting.popleft())
            self._storing = len(taken)
            self._changed.notify_all()
            return taken

    def _wait_interval(self, started: float, rows: int) -> None:
        """Let batches gather, unless somebody waits for them. `rows`: of the last insert."""
        interval = gathering_seconds(self._interval_seconds, size=rows, full=FULL_INSERT_ROWS)
        with self._changed:
            left = started + interval - time.monotonic()
            self._changed.wait_for(lambda: self._hurry or self._closing, timeout=max(0.0, left))

    def _store(self, batches: list[Storable]) -> None:
        seqs = [batch.seq for batch in batches if batch.seq is not None]
        redo = any(batch.redo for batch in batches)
        if seqs:
            crash_point("sink.before_inserts")
            # Usage first: it is a tenth of the work, and what is waited for.
            self._insert("usage_minutes", seqs, [batch.usage for batch in batches])
            self._insert("usage_values", seqs, [batch.values for batch in batches])
            crash_point("sink.redoing" if redo else "sink.usage_inserted")
            self._insert("events", seqs, [batch.events for batch in batches])
            self._insert("event_copies", seqs, [batch.copies for batch in batches])
            crash_point("sink.events_inserted")
        until: dict[int, datetime] = {}
        for batch in batches:
            until |= batch.until
        with self._connection.transaction():
            lock_shard(self._connection, shard=self._shard)
            commit_intents(self._connection, topic=self._topic, shard=self._shard, seqs=seqs, until=until)
            self._forget_old(seqs)
        crash_point("sink.committed")
        self._on_stored(seqs)

    def _insert(self, table: str, seqs: list[int], parts: Sequence[Table | None]) -> None:
        rows = [part for part in parts if part is not None]
        if rows:
            token = f"{self._process}:{self._shard}:{seqs[0]}-{seqs[-1]}:{table}"
            insert_table(self._client, table, pa.concat_tables(rows), token=token)

    def _forget_old(self, seqs: list[int]) -> None:
        below = (seqs[-1] if seqs else 0) - KEEP_COMMITTED_INTENTS
        if below > self._removed_below + REMOVE_EVERY_INTENTS or (below > 0 and not self._removed_below):
            remove_committed(self._connection, shard=self._shard, below_seq=below, limit=REMOVE_AT_ONCE)
            self._removed_below = below
