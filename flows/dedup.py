"""Which events are first copies. The first copy of an identity in the log counts; the others are kept aside.

The decision is a function of the log alone: an event is a copy when the same identity stands *earlier* in the log, no
more than the window before it. Judged again after a crash it is judged the same, since a stored row of the event
itself, or of a later one, says nothing.

Two levels: a Bloom filter in memory says "surely new" for nearly all; only suspects are looked up exactly, among the
batches on their way to ClickHouse and in its table of identities. The filter is a cache and is rebuilt at start.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.events import Events, Rows
from infra.clickhouse.sink import StoredIdentity

BITS_AN_IDENTITY = 27  # of filter; false suspects stay below one in a thousand
MIN_FILTER_WORDS = 1 << 20  # 8 MiB, good for 2.4 million identities
MAX_FILTER_WORDS = 1 << 27  # 1 GiB, good for 318 million; beyond that suspects grow, answers stay right
LAYER_GROWTH = 4  # each layer costs a probe an event
PROBES = 3  # bits a key sets in each of its words

_SIX_BITS = np.uint64(63)
_ONE = np.uint64(1)

Words = NDArray[np.uint64]
LookUp = Callable[[list[bytes]], dict[bytes, list[StoredIdentity]]]


class IdentityFilter:
    """A Bloom filter of two 64-bit words a key. It may say yes to a stranger, never no to an acquaintance.

    It grows by layers: what is full stays as it is, and a larger one takes what comes then.
    """

    def __init__(self, expected: int = 0) -> None:
        words = max(MIN_FILTER_WORDS, expected * BITS_AN_IDENTITY // 64)
        self._layers = [np.zeros(min(1 << (words - 1).bit_length(), MAX_FILTER_WORDS), np.uint64)]
        self._count = 0  # of the last layer

    def add(self, words: Words) -> None:
        """Remember these identities, given as (n, 2) words."""
        if self._count * BITS_AN_IDENTITY >= len(self._layers[-1]) * 64:
            self._grow()
        layer = self._layers[-1]
        for place, mask in _marks(words):
            np.bitwise_or.at(layer, _within(layer, place), mask)
        self._count += len(words)

    def suspects(self, words: Words) -> NDArray[np.bool_]:
        """True where the identity may have been added; false: it surely was not."""
        (place, mask), (other_place, other_mask) = _marks(words)
        found = np.zeros(len(words), np.bool_)
        for layer in self._layers:
            likely = np.flatnonzero((layer[_within(layer, place)] & mask) == mask)  # few: the other word is rarely read
            wanted = other_mask[likely]
            found[likely] |= (layer[_within(layer, other_place[likely])] & wanted) == wanted
        return found

    def _grow(self) -> None:
        left = MAX_FILTER_WORDS - sum(map(len, self._layers))
        if left >= MIN_FILTER_WORDS:
            words = min(len(self._layers[-1]) * LAYER_GROWTH, 1 << (left.bit_length() - 1))
            self._layers.append(np.zeros(words, np.uint64))
            self._count = 0


def _within(layer: Words, place: Words) -> NDArray[np.int64]:
    return (place & np.uint64(len(layer) - 1)).astype(np.int64)


def _marks(words: Words) -> tuple[tuple[Words, Words], tuple[Words, Words]]:
    """Two (place, mask) of each key, from bits of their own. The lowest have chosen the partition: they say nothing."""
    low, high = words[:, 0] >> np.uint64(16), words[:, 1]
    return (low, _mask(high)), (high >> np.uint64(34), _mask(low >> np.uint64(30)))


def _mask(bits: Words) -> Words:
    mask = np.zeros(len(bits), np.uint64)
    for probe in range(PROBES):
        mask |= _ONE << ((bits >> np.uint64(6 * probe)) & _SIX_BITS)
    return mask


@dataclass(frozen=True, slots=True)
class InFlight:
    """First copies of one batch whose rows may not be in ClickHouse yet."""

    seq: int
    firsts: Events


class Dedup:
    """Judges batches in the order of the log. `judge` is for one thread; `forget` may be called from another."""

    def __init__(self, *, known: IdentityFilter, look_up: LookUp, window: timedelta) -> None:
        self._filter = known
        self._look_up = look_up
        self._window_micros = window // timedelta(microseconds=1)
        self._in_flight: tuple[InFlight, ...] = ()
        self._lock = threading.Lock()

    def judge(self, events: Events, *, seq: int) -> NDArray[np.bool_]:
        """True for each first copy. The batch counts as in flight under `seq` until `forget`."""
        first = self._first_in_batch(events)
        suspects = np.flatnonzero(self._filter.suspects(events.words) & first)
        if len(suspects):
            # The batches in flight are noted before the look-up: one that is stored in between is seen twice, in the
            # other order it could be seen by neither.
            in_flight = self._in_flight
            stored = self._look_up([identity(events, row) for row in suspects.tolist()])
            self._add_in_flight(stored, events, suspects, in_flight)
            first[[row for row in suspects.tolist() if self._is_copy(events, row, stored)]] = False
        firsts = events if first.all() else events.take(np.flatnonzero(first))
        self._filter.add(firsts.words)
        with self._lock:
            self._in_flight = (*self._in_flight, InFlight(seq, firsts))
        return first

    def forget(self, seqs: Iterable[int]) -> None:
        """The rows of these batches can be read from ClickHouse now."""
        stored = set(seqs)
        with self._lock:
            self._in_flight = tuple(batch for batch in self._in_flight if batch.seq not in stored)

    def _first_in_batch(self, events: Events) -> NDArray[np.bool_]:
        first = np.ones(len(events), np.bool_)
        low = pl.Series(events.words[:, 0])
        if low.n_unique() == len(events):
            return first
        seen: dict[bytes, int] = {}
        for row in np.flatnonzero(low.is_duplicated().to_numpy()).tolist():
            earlier = seen.setdefault(identity(events, row), row)
            if earlier == row:
                continue
            if events.received_at[row] - events.received_at[earlier] <= self._window_micros:
                first[row] = False
            else:
                seen[identity(events, row)] = row
        return first

    def _is_copy(self, events: Events, row: int, stored: dict[bytes, list[StoredIdentity]]) -> bool:
        partition, offset, index = (int(c[row]) for c in (events.partitions, events.offsets, events.indexes))
        oldest = int(events.received_at[row]) - self._window_micros
        return any(
            (found.partition != partition or (found.offset, found.index) < (offset, index))
            and found.received_at_micros >= oldest
            for found in stored.get(identity(events, row), ())
        )

    def _add_in_flight(
        self,
        stored: dict[bytes, list[StoredIdentity]],
        events: Events,
        suspects: Rows,
        in_flight: tuple[InFlight, ...],
    ) -> None:
        """Add to `stored` what the batches in flight hold of the suspects."""
        low = pl.Series(np.unique(events.words[suspects, 0]))
        wanted = {identity(events, row) for row in suspects.tolist()}
        for batch in in_flight:
            firsts = batch.firsts
            for row in np.flatnonzero(pl.Series(firsts.words[:, 0]).is_in(low.implode()).to_numpy()).tolist():
                key = identity(firsts, row)
                if key in wanted:
                    place = (
                        int(c[row]) for c in (firsts.partitions, firsts.offsets, firsts.indexes, firsts.received_at)
                    )
                    stored.setdefault(key, []).append(StoredIdentity(*place))


def identity(events: Events, row: int) -> bytes:
    """The 16 bytes of an event's identity."""
    return events.words[row].tobytes()
