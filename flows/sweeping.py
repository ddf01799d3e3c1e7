"""Removes counters, and values of unique counts, that nobody will ask for any more: of entitlements that are gone or
ended long ago, and of periods older than the one before the present.

It is a walk over the numbers of entitlements, round after round, a page now and then. A page is one transaction, apart
from those of batches, with the place it came to: a process that is killed goes on from there. A shard removes its own
rows alone, by what its own book says that it counts; so no row goes that this or another flow would add to. The first
shard removes, too, what is of no shard: values, and the rows of shards that there are no more.
"""

from datetime import datetime, timedelta

from flows.counters import ENDED_KEPT, Counted, CounterBook
from flows.shards import Clock
from infra.postgres.counter_sweeps import (
    EVER,
    load_place,
    numbers_after,
    remove_counters,
    remove_former_values,
    remove_values,
    save_place,
    still_counted,
)
from infra.postgres.counters import SeededBy
from infra.postgres.pool import PgConnection
from infra.postgres.shards import lock_shard
from schemas.instants import from_micros

#: Entitlements that one page looks at, and rows of each kind that it removes.
PAGE_SIZE = 500
MAX_REMOVED = 5_000
PAGE_EVERY = timedelta(seconds=1)
#: From the end of a round to the next one.
ROUND_EVERY = timedelta(minutes=1)
FIRST_SHARD = 0


class Sweeper:
    """For one thread; the connection is its own between two calls."""

    def __init__(self, *, connection: PgConnection, book: CounterBook, layout: SeededBy, clock: Clock) -> None:
        self._connection = connection
        self._book = book
        self._layout = layout
        self._clock = clock
        self._due_at = clock()

    def go_on(self, *, seq: int) -> None:
        """The next page, if it is time for one. `seq`: the shard's last intent as far as this process knows; where
        there is a later one, the rows are another process's now."""
        now = self._clock()
        if now < self._due_at:
            return
        with self._connection.transaction():
            is_ours = lock_shard(self._connection, shard=self._layout.shard) == seq
            is_end = not is_ours or self._sweep_page(now)
        self._due_at = now + (ROUND_EVERY if is_end else PAGE_EVERY)

    def _sweep_page(self, now: datetime) -> bool:
        """Whether the round has come to its end."""
        shard = self._layout.shard
        place = load_place(self._connection, shard=shard)
        numbers = numbers_after(self._connection, number=place, with_values=shard == FIRST_SHARD, limit=PAGE_SIZE)
        if self._remove_of(numbers, now):
            return False  # there may be more of these
        is_end = len(numbers) < PAGE_SIZE
        reached = 0 if is_end else numbers[-1]
        if reached != place:
            save_place(self._connection, shard=shard, number=reached)
        return is_end

    def _remove_of(self, numbers: list[int], now: datetime) -> bool:
        """Whether as much was removed as a page may remove. Entitlements of test clocks go by the real one."""
        counted = {number: periods for number in numbers if (periods := self._book.counted(number))}
        others = [number for number in numbers if number not in counted]
        kept = still_counted(self._connection, numbers=others, ended_after=now - ENDED_KEPT) if others else set[int]()
        before = {number: from_micros(periods[0].start) for number, periods in counted.items()}
        before |= {number: EVER for number in others if number not in kept}
        if not before:
            return False
        is_first = self._layout.shard == FIRST_SHARD
        removed = [
            remove_counters(
                self._connection,
                shard=self._layout.shard,
                former_from=self._layout.shards if is_first else None,
                before=before,
                limit=MAX_REMOVED,
            )
        ]
        if is_first:
            removed.append(remove_values(self._connection, before=before, limit=MAX_REMOVED))
            rebuilt = [_key(each) for periods in counted.values() for each in periods if each.revision > 1]
            removed.append(remove_former_values(self._connection, periods=rebuilt, limit=MAX_REMOVED))
        return max(removed) >= MAX_REMOVED


def _key(period: Counted) -> tuple[int, datetime, int]:
    return period.entitlement_no, from_micros(period.start), period.revision
