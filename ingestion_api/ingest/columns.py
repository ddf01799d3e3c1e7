"""The good events of a request as columns, with the checks of `event` done on all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

import msgspec
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from infra.kafka.event_log import identity_seed
from ingestion_api.ingest.event import (
    MAX_DATA_DEPTH,
    MAX_FUTURE_MICROS,
    MAX_MICROS,
    MIN_MICROS,
    IncomingEvent,
    check_event,
    may_be_deep,
)
from schemas.errors import Reject
from schemas.events import MAX_EVENT_BYTES, MAX_FIELD_LENGTH

#: Below this, a loop over the events costs less than numpy's fixed price a call.
MIN_VECTORIZED = 24
#: Data up to this length can't make an event too large, whatever its names (four bytes a character at most).
SAFE_DATA_BYTES = MAX_EVENT_BYTES - 4 * 4 * MAX_FIELD_LENGTH
SHORTEST_INSTANT = len("2026-01-31T12:00:00Z")

_INSTANT = pa.timestamp("us", tz="UTC")

Int64s = NDArray[np.int64]


class Suspect(Exception):
    """Something may be wrong with some event; the slow path must look at each."""


@dataclass(slots=True)
class Columns:
    """Events of one tenant, in the order they were sent. `identities` holds 16 bytes an event."""

    ids: list[str]
    sources: list[str]
    types: list[str]
    subjects: list[str]
    data: list[msgspec.Raw]
    times: Int64s
    untimed: list[int] = field(default_factory=list[int])
    extensions: dict[int, str] = field(default_factory=dict[int, str])
    identities: bytes = b""

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, other: "Columns") -> None:
        """Append the events of another request."""
        count = len(self.ids)
        self.ids += other.ids
        self.sources += other.sources
        self.types += other.types
        self.subjects += other.subjects
        self.data += other.data
        self.times = np.concatenate((self.times, other.times))
        self.untimed += [count + index for index in other.untimed]
        self.extensions.update({count + index: text for index, text in other.extensions.items()})
        self.identities += other.identities


def build_columns(events: Sequence[IncomingEvent], times: Int64s) -> Columns:
    """Columns of checked events."""
    stamps = [event.time for event in events]
    return Columns(
        ids=[event.id for event in events],
        sources=[event.source for event in events],
        types=[event.type for event in events],
        subjects=[event.subject for event in events],
        data=[event.data for event in events],
        times=times,
        untimed=[index for index, stamp in enumerate(stamps) if stamp is None] if None in stamps else [],
    )


def check_columns(events: Sequence[IncomingEvent], received_micros: int) -> Columns:
    """Columns of decoded events whose text is UTF-8, if all of them are surely good. Raises Suspect."""
    if len(events) < MIN_VECTORIZED:
        try:
            times = np.array([check_event(event, received_micros) for event in events], np.int64)
        except Reject:
            raise Suspect from None
        return build_columns(events, times)
    columns = build_columns(events, _times(events, received_micros))
    for names in (columns.ids, columns.subjects, dict.fromkeys(columns.types), dict.fromkeys(columns.sources)):
        if not "".join(names).isprintable():
            raise Suspect
    _check_data(columns.data)
    return columns


def _times(events: Sequence[IncomingEvent], received_micros: int) -> Int64s:
    """Microseconds of all events' times. Reads the common form of an instant, UTC with `Z`."""
    texts = pa.array([event.time for event in events], pa.string())
    lengths = np.diff(np.frombuffer(texts.buffers()[1], np.int32, len(events) + 1))
    bytes_ = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    ends = np.cumsum(lengths)[lengths > 0] - 1
    shortest = lengths[lengths > 0].min(initial=SHORTEST_INSTANT)
    if shortest < SHORTEST_INSTANT or (bytes_[ends] != ord("Z")).any() or len(ends) + texts.null_count != len(events):
        raise Suspect
    try:
        # Of what is so long and ends in Z, this reads RFC 3339 with at most six digits of a second, and no more.
        instants = texts.cast(_INSTANT).cast(pa.int64())
    except pa.ArrowInvalid:
        raise Suspect from None
    times = instants.fill_null(received_micros).to_numpy()
    if times.min() < MIN_MICROS or times.max() >= min(MAX_MICROS, received_micros + MAX_FUTURE_MICROS + 1):
        raise Suspect
    return times


def _check_data(data: list[msgspec.Raw]) -> None:
    lengths = np.fromiter(map(len, map(memoryview, data)), np.int64, len(data))  # pyright: ignore[reportArgumentType]
    joined = np.frombuffer(b"".join(data), np.uint8)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if lengths.max() > SAFE_DATA_BYTES or (joined[np.cumsum(lengths) - lengths] != ord("{")).any():
        raise Suspect
    long = np.flatnonzero(lengths > 2 * MAX_DATA_DEPTH)
    if any(may_be_deep(bytes(data[index])) for index in long):
        raise Suspect


def identify(columns: Columns, tenant_no: int) -> int:
    """Fill in the identities and return how many events are copies of an earlier one of the same columns."""
    sources = dict.fromkeys(columns.sources)
    seeds = {source: identity_seed(tenant_no, source) for source in sources}
    of_each = repeat(next(iter(seeds.values()))) if len(seeds) == 1 else map(seeds.__getitem__, columns.sources)
    columns.identities = b"".join(map(xxhash.xxh3_128_digest, map(str.encode, columns.ids), of_each))
    if len(columns) == 1:
        return 0
    words = np.sort(np.frombuffer(columns.identities, np.uint64)[::2])
    if (words[1:] != words[:-1]).all():
        return 0
    return len(columns) - len(set(zip(columns.sources, columns.ids, strict=True)))
