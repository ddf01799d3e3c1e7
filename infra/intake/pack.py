"""Columns to messages: split by the partition of each identity, and cut at a size that every broker takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from infra.intake.columns import Columns
from infra.intake.texts import Names, Texts
from infra.kafka.event_log import seal
from schemas.events import EventBatch

#: Before compression. A message may be longer by one event, or by the dictionaries that all messages share.
MAX_MESSAGE_BYTES = 1_000_000
MAX_SHARED_NAMES = 64  # a longer dictionary of sources or types is made anew for each message, and counts
FIXED_BYTES_AN_EVENT = 16 + 8 + 2 * 5

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Packed:
    """One message for one partition."""

    partition: int
    value: bytes
    count: int


class _Texts:
    """A column of texts in the order of partitions: slices are cheap."""

    def __init__(self, texts: Texts, order: IntArray) -> None:
        self.lengths = texts.lengths[order]
        self._joined, self._ends = texts.reordered(order)
        self._lengths_u16 = self.lengths.astype("<u2")

    def cut(self, start: int, end: int) -> tuple[bytes, bytes]:
        """The texts of [start, end) one after another, and their lengths."""
        first = int(self._ends[start - 1]) if start else 0
        last = int(self._ends[end - 1])
        return self._joined.slice(first, last - first).to_pybytes(), self._lengths_u16[start:end].tobytes()


class _Names:
    """A column of names in the order of partitions."""

    def __init__(self, names: Names, order: IntArray) -> None:
        self._distinct = names.distinct
        self._codes = names.codes[order].astype("<u2", copy=False)

    def sizes(self) -> IntArray | int:
        """Bytes that each event may add to its message's own dictionary; 0 where messages share one."""
        if len(self._distinct) <= MAX_SHARED_NAMES:
            return 0
        return np.array([len(name.encode()) for name in self._distinct], np.int64)[self._codes]

    def cut(self, start: int, end: int) -> tuple[list[str], bytes]:
        """The dictionary and the codes of [start, end)."""
        codes = self._codes[start:end]
        if len(self._distinct) <= MAX_SHARED_NAMES:
            return self._distinct, codes.tobytes()
        used, own = np.unique(codes, return_inverse=True)
        return [self._distinct[code] for code in used.tolist()], own.astype("<u2").tobytes()


def pack(columns: Columns, tenant_no: int, partitions: int) -> list[Packed]:
    """All events of the columns (at most 65,536) as sealed messages, in their order within each partition."""
    identities = np.frombuffer(columns.identities, "<u8").reshape(-1, 2)
    partition_of = (identities[:, 0] % partitions).astype(np.uint16)  # sorts by radix
    order = np.argsort(partition_of, kind="stable")
    order_list: list[int] = order.tolist() if columns.extensions else []
    ids = _Texts(columns.ids, order)
    subjects = _Texts(columns.subjects, order)
    data = _Texts(columns.data, order)
    sources = _Names(columns.sources, order)
    types = _Names(columns.types, order)
    hashes = identities.take(order, axis=0)  # a tenth of the price of an index
    times = columns.times[order]
    untimed = np.isin(order, columns.untimed) if columns.untimed else None
    sizes = ids.lengths + subjects.lengths + data.lengths + FIXED_BYTES_AN_EVENT + sources.sizes() + types.sizes()
    for place, text in _extensions(columns.extensions, order_list).items():
        sizes[place] += len(text.encode())

    messages: list[Packed] = []
    bounds = np.searchsorted(partition_of[order], np.arange(partitions + 1)).tolist()
    for partition, (first, last) in enumerate(pairwise(bounds)):
        for start, end in _cuts(sizes, first, last):
            id_blob, id_lengths = ids.cut(start, end)
            subject_blob, subject_lengths = subjects.cut(start, end)
            source_names, source_codes = sources.cut(start, end)
            type_names, type_codes = types.cut(start, end)
            data_blob, data_lengths = data.cut(start, end)
            batch = EventBatch(
                tenant_no=tenant_no,
                count=end - start,
                hashes=hashes[start:end].tobytes(),
                times=times[start:end].astype("<i8", copy=False).tobytes(),
                ids=id_blob,
                id_lengths=id_lengths,
                subjects=subject_blob,
                subject_lengths=subject_lengths,
                sources=source_names,
                source_codes=source_codes,
                types=type_names,
                type_codes=type_codes,
                data=data_blob,
                data_lengths=data_lengths,
                untimed=b"" if untimed is None else np.flatnonzero(untimed[start:end]).astype("<u4").tobytes(),
                extensions=_extensions(columns.extensions, order_list[start:end]),
            )
            messages.append(Packed(partition, seal(batch), end - start))
    return messages


def _cuts(sizes: IntArray, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Ranges of [first, last) whose sizes stay within a message; a range has at least one event."""
    if first == last:
        return
    totals = np.cumsum(sizes[first:last])
    start, before = first, 0
    while start < last:
        end = first + int(np.searchsorted(totals, before + MAX_MESSAGE_BYTES, side="right"))
        end = max(end, start + 1)
        yield start, end
        start, before = end, int(totals[end - first - 1])


def _extensions(texts: dict[int, str], order: list[int]) -> dict[int, str]:
    """The extensions of events in this order, by their place in it."""
    return {place: texts[index] for place, index in enumerate(order) if index in texts} if texts else {}
