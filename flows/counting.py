"""Counters of a shard, batch by batch: which rows are seeded, which are added to, and what is written of them in the
transaction that moves the offsets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from flows.additions import Amount, Amounts, additions, quantity_of
from flows.attributed import Attributed
from flows.catalogue import Catalogue
from flows.combine import Minutes
from flows.counters import SEEDS_AT_ONCE, Counted, CounterBook
from flows.seed import load_seeds
from flows.shards import Clock
from flows.writer import Writer
from infra.clickhouse.client import Client
from infra.postgres.counter_values import ValueChange, count_values
from infra.postgres.counters import (
    CounterChange,
    CounterRow,
    SeededBy,
    add_to_counters,
    counting_rows,
    insert_counters,
    leave_counters,
    mark_stale,
    rank_in_counters,
    seeded_counters,
)
from infra.postgres.pool import PgConnection
from schemas.counters import RANKED
from schemas.instants import from_micros
from schemas.meters import Aggregation

#: Values of unique counts that one batch writes, beside its seeds. The periods with the most are given up above that.
MAX_VALUES_A_BATCH = 50_000
#: How often what is stale is seeded anew: each seed waits for the batches before to be stored.
RENEW_EVERY = timedelta(seconds=1)

Key = tuple[int, datetime, int]  # entitlement, start of the period, revision of its meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one commit does: new rows, additions to rows that exist, periods that can't be counted any more, and
    (entitlement, start) of those that need not be."""

    seeds: Amounts
    added: Amounts
    given_up: list[Counted]
    left: list[tuple[int, datetime]]


class Counting:
    """For one thread; the connection is its own between two calls, and inside a transaction in `write`."""

    def __init__(
        self,
        *,
        connection: PgConnection,
        client: Client,
        writer: Writer,
        catalogue: Catalogue,
        book: CounterBook,
        layout: SeededBy,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._client = client
        self._writer = writer
        self._catalogue = catalogue
        self._book = book
        self._layout = layout
        self._clock = clock
        self._renewed_at = clock()
        self._is_new = True

    def plan(self, judged: Attributed | None, combined: list[Minutes]) -> Plan:
        """What the batch counts, and the seeds that are due. May wait for the batches before to be stored."""
        now = self._clock()
        self._book.refresh(self._catalogue, now)
        if now - self._renewed_at >= RENEW_EVERY:
            self._renewed_at = now
            self._book.renew_stale()
        if self._is_new:
            for page in counting_rows(self._connection, shard=self._layout.shard):
                self._book.leave_uncounted(page)
            self._is_new = False
        seeds, too_many = self._seeds()
        added: Amounts = {}
        found = additions(self._book, judged, combined) if judged is not None else {}
        for period, amount in found.items():
            if period in seeds:
                seeds[period].add(amount)
            elif amount and not self._book.is_missing(period):
                added[period] = amount
        given_up = [*too_many, *_give_up(added)]
        return Plan(seeds=seeds, added=added, given_up=given_up, left=self._book.take_left())

    def write(self, plan: Plan, *, seq: int) -> list[CounterRow]:
        """Write the plan, in the caller's transaction; the rows as they are then."""
        shard = self._layout.shard
        more = count_values(self._connection, [*_values(plan.seeds), *_values(plan.added)])
        new = _changes(plan.seeds, more)
        added = _changes(plan.added, more)
        rows: list[CounterRow] = []
        for ranked in (False, True):
            rows += insert_counters(
                self._connection, by=self._layout, seq=seq, changes=new.get(ranked, []), ranked=ranked
            )
        changed = [change for change in added.get(False, []) if change.quantity or change.events]
        rows += add_to_counters(self._connection, shard=shard, seq=seq, changes=changed)
        rows += rank_in_counters(self._connection, shard=shard, seq=seq, changes=added.get(True, []))
        stale = [_change(period, Amount(), {}) for period in plan.given_up]
        rows += mark_stale(self._connection, by=self._layout, seq=seq, changes=stale)
        rows += leave_counters(self._connection, shard=shard, seq=seq, periods=plan.left)
        return rows

    def written(self, plan: Plan, rows: Iterable[CounterRow]) -> None:
        """The transaction of `write` has been committed."""
        self._book.mark_seeded(plan.seeds)
        self._book.give_up(plan.given_up)
        stale = {(row.entitlement_no, row.period_start, row.meter_revision) for row in rows if row.is_stale}
        if stale:
            self._book.mark_stale([
                period
                for period in (*plan.seeds, *plan.added)
                if period.aggregation in RANKED and _key(period) in stale
            ])  # fmt: skip

    def _seeds(self) -> tuple[Amounts, list[Counted]]:
        """Periods that have become countable, and what this shard has stored of each; and those that can't be counted.

        What earlier batches brought must be in ClickHouse to be found there; what this batch brings is added to it.
        """
        fresh = self._book.take_fresh()
        seeds: Amounts = {}
        for start in range(0, len(fresh), SEEDS_AT_ONCE):
            rows = self._rows(fresh[start : start + SEEDS_AT_ONCE])
            self._meet(rows)
            seeds |= {period: Amount() for period in self._begun_by_others(rows)}
        missing = [period for period in self._book.missing(SEEDS_AT_ONCE) if period not in seeds]
        if not missing:
            return seeds, []
        self._writer.drain()
        found, too_many = load_seeds(
            self._client,
            layout=self._layout,
            periods=missing,
            catalogue=self._catalogue,
            rows=self._rows(missing),
        )
        return seeds | found, too_many

    def _begun_by_others(self, found: dict[Counted, list[SeededBy]]) -> list[Counted]:
        """Periods of which another shard's row, of a layout before this shard joined, has all that was stored by then.
        They begin with nothing, and all at once: what this shard stores from now on is in no seed of theirs."""
        shard = self._layout.shard
        return [
            period
            for period, rows in found.items()
            if period.aggregation not in RANKED
            and all(row.shard != shard for row in rows)
            and any(row.takes(shard) and not row.is_stale for row in rows)
        ]

    def _meet(self, found: dict[Counted, list[SeededBy]]) -> None:
        """Take over the rows that an earlier process of this shard has made."""
        for period, rows in found.items():
            own = next((row for row in rows if row.shard == self._layout.shard), None)
            if own is None:
                continue
            if not own.is_stale and (own.shards == self._layout.shards or period.aggregation not in RANKED):
                self._book.mark_seeded([period])
            elif period.aggregation is Aggregation.UNIQUE_COUNT:
                self._book.give_up([period])  # its values have been counted in part

    def _rows(self, periods: list[Counted]) -> dict[Counted, list[SeededBy]]:
        """The rows of these periods, of any shard."""
        keys = {_key(period): period for period in periods}
        return {keys[key]: found for key, found in seeded_counters(self._connection, keys=list(keys)).items()}


def _give_up(added: Amounts) -> list[Counted]:
    """Take out the periods with the most values until the rest is few enough for a batch; which."""
    count = sum(len(amount.values) for amount in added.values())
    given_up: list[Counted] = []
    if count > MAX_VALUES_A_BATCH:
        for period in sorted(added, key=lambda period: len(added[period].values), reverse=True):
            if count <= MAX_VALUES_A_BATCH:
                break
            count -= len(added.pop(period).values)
            given_up.append(period)
    return given_up


def _key(period: Counted) -> Key:
    return period.entitlement_no, from_micros(period.start), period.revision


def _values(amounts: Amounts) -> Iterable[ValueChange]:
    for period, amount in amounts.items():
        start = from_micros(period.start)
        for digest, refs in amount.values.items():
            yield ValueChange(
                entitlement_no=period.entitlement_no,
                period_start=start,
                meter_revision=period.revision,
                digest=digest,
                refs=refs,
            )


def _changes(amounts: Amounts, more: Mapping[Key, int]) -> dict[bool, list[CounterChange]]:
    """What is ranked, and what adds up."""
    changes: dict[bool, list[CounterChange]] = {}
    for period, amount in amounts.items():
        changes.setdefault(period.aggregation in RANKED, []).append(_change(period, amount, more))
    return changes


def _change(period: Counted, amount: Amount, more: Mapping[Key, int]) -> CounterChange:
    change = CounterChange(
        entitlement_no=period.entitlement_no,
        period_start=from_micros(period.start),
        meter_revision=period.revision,
        quantity=quantity_of(amount.units),
        events=amount.events,
        rank=amount.rank,
        taken=amount.taken,
    )
    if period.aggregation is Aggregation.UNIQUE_COUNT:
        return replace(change, quantity=Decimal(more.get(_key(period), 0)))
    return change
