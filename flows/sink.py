"""The first commit of a batch: offsets, intent, counters and poison in one transaction of PostgreSQL. Then the writer.

After this commit the batch is a function of the log: its ranges, its catalogue and its number are written down, and a
process that starts over finds it pending and stores the same rows under the same keys.
"""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from flows.attribute import Attributed
from flows.balances import BalanceTeller
from flows.catalogue import Catalogue
from flows.changes import Changes
from flows.combine import Minutes, combine
from flows.counters import SEEDS_AT_ONCE, Counted, CounterBook
from flows.events import Events
from flows.history import attribute_decisions, decide, report_changes
from flows.metrics import BATCH_SECONDS, EVENTS, LAG_SECONDS, POISON
from flows.quarantine import QuarantineCap, notices_of
from flows.rows import copy_rows, count_by_status, event_rows, usage_rows, value_rows
from flows.seed import load_seeds
from flows.settle import settle
from flows.shards import Clock, LogBatch
from flows.writer import Storable, Writer
from infra.clickhouse.client import Client
from infra.clickhouse.history import Fact, load_facts
from infra.crash_points import crash_point
from infra.postgres.counters import (
    CounterChange,
    SeededBy,
    add_to_counters,
    insert_counters,
    remove_ended,
    seeded_counters,
)
from infra.postgres.poison import PoisonMessage, record_poison
from infra.postgres.pool import PgConnection
from infra.postgres.quarantine import append_notices, load_recent, save_recent
from infra.postgres.shards import Intent, advance, commit_intents, lock_shard, record_catalogue_version, write_intent
from infra.settings import Settings
from schemas.errors import InvariantBroken
from schemas.instants import from_micros
from schemas.money import EXACT, MAX_SCALE


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
        self._layout = SeededBy(shard=settings.flow_shard, shards=settings.flow_shards)
        self._connection = connection
        self._client = client
        self._writer = writer
        self._catalogue = catalogue
        self._book = book
        self._balances = balances
        self._clock = clock
        self._cap = QuarantineCap(
            max_percent=settings.quarantine_max_percent, min_events=settings.quarantine_min_events
        )
        self._last_seq = 0

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
        self._last_seq = log.intent.seq
        self._writer.submit(self._rows(batch, log.intent))
        self._report(batch)

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
        periods, seeds = self._seeds()
        ended = self._ended()
        stored = self._writer.is_idle()
        with self._connection.transaction():
            lock_shard(self._connection, shard=self._shard)
            advance(self._connection, topic=self._topic, shard=self._shard, ranges=(), until=log.until)
            record_catalogue_version(self._connection, shard=self._shard, version=log.catalogue_version)
            rows = insert_counters(self._connection, by=self._layout, seq=self._last_seq, changes=_changes(seeds))
            remove_ended(self._connection, shard=self._shard, before=ended)
            if stored:
                commit_intents(self._connection, topic=self._topic, shard=self._shard, seqs=(), until=log.until)
        self._book.mark_seeded(periods)
        self._balances.tell(rows, seq=self._last_seq, until=log.until)
        if not stored:
            self._writer.submit(Storable(seq=None, events=None, copies=None, usage=None, until=log.until, redo=False))
        self._report_lag(log)

    def _commit(self, batch: Judged) -> None:
        intent = batch.log.intent
        assert intent is not None
        periods, seeds = self._seeds()
        added = self._book.additions(batch.attributed, batch.combined) if batch.attributed else {}
        fresh = {period: units + added.get(period, 0) for period, units in seeds.items()}
        known = {
            period: units
            for period, units in added.items()
            if units and period not in seeds and not self._book.is_missing(period)
        }
        ended = self._ended()
        notices = notices_of(batch.attributed) if batch.attributed else []
        crash_point("sink.before_commit")
        with self._connection.transaction():
            lock_shard(self._connection, shard=self._shard)
            advance(self._connection, topic=self._topic, shard=self._shard, ranges=intent.ranges, until=batch.log.until)
            write_intent(self._connection, shard=self._shard, intent=intent)
            crash_point("sink.in_transaction")
            record_poison(self._connection, topic=self._topic, messages=batch.poison)
            if self._cap.is_set and batch.attributed and not batch.changes:
                recent = self._cap.admit(load_recent(self._connection, shard=self._shard), batch.attributed)
                save_recent(self._connection, shard=self._shard, recent=recent)
            if notices:
                append_notices(self._connection, notices=notices, now=intent.created_at)
            rows = insert_counters(self._connection, by=self._layout, seq=intent.seq, changes=_changes(fresh))
            rows += add_to_counters(self._connection, shard=self._shard, seq=intent.seq, changes=_changes(known))
            remove_ended(self._connection, shard=self._shard, before=ended)
            settle(self._connection, batch.attributed, now=intent.created_at)
            crash_point("sink.settled")
        self._book.mark_seeded(periods)
        crash_point("sink.advanced")
        self._balances.tell(rows, seq=intent.seq, until=batch.log.until)

    def _seeds(self) -> tuple[list[Counted], dict[Counted, int]]:
        """Periods that have become countable, and what this shard has stored of each.

        What earlier batches brought must be in ClickHouse to be found there; what this batch brings is added to it.
        """
        self._book.refresh(self._catalogue, self._clock())
        fresh = self._book.take_fresh()
        for start in range(0, len(fresh), SEEDS_AT_ONCE):
            found = self._seeded(fresh[start : start + SEEDS_AT_ONCE])
            self._book.mark_seeded(p for p, rows in found.items() if any(row.shard == self._shard for row in rows))
        missing = self._book.missing()
        if not missing:
            return [], {}
        self._writer.drain()
        rows = self._seeded(missing)
        seeds = load_seeds(self._client, layout=self._layout, periods=missing, catalogue=self._catalogue, rows=rows)
        return missing, seeds

    def _seeded(self, periods: list[Counted]) -> dict[Counted, list[SeededBy]]:
        """The rows of these periods, of any shard."""
        keys = {(p.entitlement_no, from_micros(p.start), p.revision): p for p in periods}
        return {keys[key]: found for key, found in seeded_counters(self._connection, keys=list(keys)).items()}

    def _ended(self) -> dict[int, datetime]:
        return {number: from_micros(start) for number, start in self._book.take_ended().items()}

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


def _changes(units: dict[Counted, int]) -> list[CounterChange]:
    return [
        CounterChange(
            entitlement_no=period.entitlement_no,
            period_start=from_micros(period.start),
            meter_revision=period.revision,
            quantity=Decimal(value).scaleb(-MAX_SCALE, EXACT),
        )
        for period, value in units.items()
    ]
