"""The first commit of a batch: offsets, intent, counters and poison in one transaction of PostgreSQL. Then the writer.

After this commit the batch is a function of the log: its ranges, its catalogue and its number are written down, and a
process that starts over finds it pending and stores the same rows under the same keys.
"""

import time
from dataclasses import dataclass, replace

from flows.attribute import Attributed
from flows.balances import BalanceTeller
from flows.catalogue import Catalogue
from flows.changes import Changes
from flows.combine import Minutes, combine
from flows.counters import CounterBook
from flows.counting import Counting
from flows.events import Events
from flows.history import attribute_decisions, decide, report_changes
from flows.metrics import BATCH_SECONDS, EVENTS, LAG_SECONDS, POISON
from flows.quarantine import QuarantineCap, notices_of
from flows.rows import copy_rows, count_by_status, event_rows, usage_rows, value_rows
from flows.settle import settle
from flows.shards import Clock, LogBatch
from flows.sweeping import Sweeper
from flows.writer import Storable, Writer
from infra.clickhouse.client import Client
from infra.clickhouse.history import Fact, load_facts
from infra.crash_points import crash_point
from infra.postgres.counters import SeededBy
from infra.postgres.poison import PoisonMessage, record_poison
from infra.postgres.pool import PgConnection
from infra.postgres.quarantine import append_notices, load_recent, save_recent
from infra.postgres.shards import Intent, advance, commit_intents, lock_unmoved, record_catalogue_version, write_intent
from infra.settings import Settings
from schemas.errors import InvariantBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A batch with everything decided. `attributed` None: no first copy in it; `copies` None: no later one.

    What `changes` decide is known only when it is stored: it rests on what the batches before have stored.
    """

    log: LogBatch
    poison: list[PoisonMessage]
    copies: Events | None
    changes: list[Changes]
    attributed: Attributed | None
    combined: list[Minutes]


class Sink:
    """Stores batches in their order, each exactly once. For one thread; the connection is its own between two calls."""

    def __init__(
        self,
        settings: Settings,
        *,
        connection: PgConnection,
        client: Client,
        writer: Writer,
        catalogue: Catalogue,
        book: CounterBook,
        balances: BalanceTeller,
        clock: Clock,
    ) -> None:
        self._topic = settings.events_topic
        self._shard = settings.flow_shard
        self._connection = connection
        self._client = client
        self._writer = writer
        self._catalogue = catalogue
        layout = SeededBy(shard=settings.flow_shard, shards=settings.flow_shards)
        self._counting = Counting(
            connection=connection,
            client=client,
            writer=writer,
            catalogue=catalogue,
            book=book,
            layout=layout,
            clock=clock,
        )
        self._sweeper = Sweeper(connection=connection, book=book, layout=layout, clock=clock)
        self._balances = balances
        self._clock = clock
        self._cap = QuarantineCap(
            max_percent=settings.quarantine_max_percent, min_events=settings.quarantine_min_events
        )

    def store(self, batch: Judged) -> None:
        """Commit the batch in PostgreSQL, unless an earlier process has, and hand its rows to the writer.

        Raises Fenced when another owner has gone on from where this one stands, InvariantBroken when too many events
        would be quarantined; then nothing of the batch is stored.
        """
        log = batch.log
        if log.intent is None:
            self._store_progress(log)
            return
        if batch.changes:
            batch = self._decide_changes(batch, log.intent)
        if not log.redo:
            self._commit(batch)
        self._writer.submit(self._rows(batch, log.intent))
        self._report(batch)
        if not log.redo:
            self._sweeper.go_on(seq=log.intent.seq)

    def _decide_changes(self, batch: Judged, intent: Intent) -> Judged:
        """The batch with the facts that its changes add. What stands before it must be in ClickHouse to be found."""
        if intent.catalogue_version != self._catalogue.version:
            raise InvariantBroken("catalogue.went_ahead", f"version {self._catalogue.version} is in hand")
        self._writer.drain()
        crash_point("changes.drained")
        before = {r.partition: r.first for r in intent.ranges}
        wanted: dict[int, list[bytes]] = {}
        for change in batch.changes:
            wanted.setdefault(change.tenant_no, []).extend(change.identities)
        facts: list[Fact] = []
        for tenant_no, identities in wanted.items():
            facts += load_facts(self._client, tenant_no=tenant_no, identities=identities, before=before)
        decisions = decide(facts, batch.changes, self._catalogue)
        report_changes(batch.changes, facts, decisions)
        if not decisions:
            return batch
        attributed = attribute_decisions(decisions, self._catalogue)
        crash_point("changes.decided")
        return replace(batch, attributed=attributed, combined=combine(attributed))

    def _store_progress(self, log: LogBatch) -> None:
        """Nothing came: say so. Counters that are due are seeded; windows are complete too once the writer is idle."""
        plan = self._counting.plan(None, [])
        stored = self._writer.is_idle()
        with self._connection.transaction():
            lock_unmoved(self._connection, shard=self._shard, last_seq=log.last_seq)
            advance(self._connection, topic=self._topic, shard=self._shard, ranges=(), until=log.until)
            record_catalogue_version(self._connection, shard=self._shard, version=log.catalogue_version)
            rows = self._counting.write(plan, seq=log.last_seq)
            if stored:
                commit_intents(self._connection, topic=self._topic, shard=self._shard, seqs=(), until=log.until)
        self._counting.written(plan, rows)
        self._balances.tell(rows, seq=log.last_seq, until=log.until)
        if not stored:
            self._writer.submit(Storable(seq=None, events=None, copies=None, usage=None, until=log.until, redo=False))
        self._report_lag(log)
        self._sweeper.go_on(seq=log.last_seq)

    def _commit(self, batch: Judged) -> None:
        intent = batch.log.intent
        assert intent is not None
        plan = self._counting.plan(batch.attributed, batch.combined)
        notices = notices_of(batch.attributed) if batch.attributed else []
        crash_point("sink.before_commit")
        with self._connection.transaction():
            lock_unmoved(self._connection, shard=self._shard, last_seq=batch.log.last_seq)
            advance(self._connection, topic=self._topic, shard=self._shard, ranges=intent.ranges, until=batch.log.until)
            write_intent(self._connection, shard=self._shard, intent=intent)
            crash_point("sink.in_transaction")
            record_poison(self._connection, topic=self._topic, messages=batch.poison)
            if self._cap.is_set and batch.attributed and not batch.changes:
                recent = self._cap.admit(load_recent(self._connection, shard=self._shard), batch.attributed)
                save_recent(self._connection, shard=self._shard, recent=recent)
            if notices:
                append_notices(self._connection, notices=notices, now=intent.created_at)
            rows = self._counting.write(plan, seq=intent.seq)
            settle(self._connection, batch.attributed, now=intent.created_at)
            crash_point("sink.settled")
        self._counting.written(plan, rows)
        crash_point("sink.advanced")
        self._balances.tell(rows, seq=intent.seq, until=batch.log.until)

    def _rows(self, batch: Judged, intent: Intent) -> Storable:
        judged, seq = batch.attributed, intent.seq
        return Storable(
            seq=seq,
            events=event_rows(judged, shard=self._shard, seq=seq, judged_at=intent.created_at) if judged else None,
            copies=copy_rows(batch.copies, shard=self._shard, seq=seq) if batch.copies else None,
            usage=usage_rows(judged, batch.combined, shard=self._shard, seq=seq) if judged else None,
            values=value_rows(judged, shard=self._shard, seq=seq) if judged else None,
            until=batch.log.until,
            redo=batch.log.redo,
        )

    def _report(self, batch: Judged) -> None:
        if batch.attributed and not batch.changes:
            for status, count in count_by_status(batch.attributed.status).items():
                EVENTS.labels(status).inc(count)
        if batch.copies:
            EVENTS.labels("duplicate").inc(len(batch.copies))
        POISON.inc(len(batch.poison))
        BATCH_SECONDS.observe(time.monotonic() - batch.log.polled_at)
        self._report_lag(batch.log)

    def _report_lag(self, log: LogBatch) -> None:
        now = self._clock()
        for partition, until in log.until.items():
            LAG_SECONDS.labels(str(partition)).set((now - until).total_seconds())
