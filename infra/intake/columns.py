"""The good events of a request as columns, with the checks of `event` done on all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import cast

import msgspec
import numpy as np
import xxhash

from infra.intake.event import (
    MAX_DATA_DEPTH,
    MAX_DIGITS,
    MAX_FUTURE_MICROS,
    MAX_MICROS,
    MIN_MICROS,
    IncomingEvent,
    check_event,
    may_be_deep,
    may_have_long_number,
)
from infra.intake.texts import SEPARATOR, Int64s, Names, Texts, concatenate_names, concatenate_texts, names_of, texts_of
from infra.intake.times import read_instants
from infra.kafka.event_log import identity_seed
from schemas.errors import Reject
from schemas.events import MAX_EVENT_BYTES, MAX_FIELD_LENGTH

#: Below this, a loop over the events costs less than numpy's fixed price a call.
MIN_VECTORIZED = 24
#: Data up to this length can't make an event too large, whatever its names (four bytes a character at most).
SAFE_DATA_BYTES = MAX_EVENT_BYTES - 4 * 4 * MAX_FIELD_LENGTH
#: Of ASCII; other characters are looked at one by one.
FIRST_PRINTABLE, LAST_PRINTABLE = ord(" "), ord("~")


class Suspect(Exception):
    """Something may be wrong with some event; the slow path must look at each."""


@dataclass(slots=True)
class Columns:
    """Events of one tenant, in the order they were sent. `identities` holds 16 bytes an event."""

    ids: Texts
    sources: Names
    types: Names
    subjects: Texts
    data: Texts
    times: Int64s
    untimed: list[int]
    extensions: dict[int, str] = field(default_factory=dict[int, str])
    identities: bytes = b""

    def __len__(self) -> int:
        return len(self.times)


def concatenate(parts: Sequence[Columns]) -> Columns:
    """The events of several requests, one request after another; at most 65,536."""
    if len(parts) == 1:
        return parts[0]
    starts = list(accumulate((len(part) for part in parts[:-1]), initial=0))
    placed = list(zip(starts, parts, strict=True))
    return Columns(
        ids=concatenate_texts([part.ids for part in parts]),
        sources=concatenate_names([part.sources for part in parts]),
        types=concatenate_names([part.types for part in parts]),
        subjects=concatenate_texts([part.subjects for part in parts]),
        data=concatenate_texts([part.data for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        untimed=[start + index for start, part in placed for index in part.untimed],
        extensions={start + index: text for start, part in placed for index, text in part.extensions.items()},
        identities=b"".join([part.identities for part in parts]),
    )


def build_columns(events: Sequence[IncomingEvent], times: Int64s) -> Columns:
    """Columns of checked events."""
    return Columns(
        ids=texts_of([event.id.encode() for event in events]),
        sources=names_of([event.source for event in events]),
        types=names_of([event.type for event in events]),
        subjects=texts_of([event.subject.encode() for event in events]),
        data=texts_of([bytes(event.data) for event in events]),
        times=times,
        untimed=[index for index, event in enumerate(events) if event.time is None],
    )


def check_columns(events: Sequence[IncomingEvent], received_micros: int, *, any_time: bool = False) -> Columns:
    """Columns of decoded events whose text is UTF-8, if all of them are surely good. Raises Suspect.

    `any_time`: see `check_event`.
    """
    if len(events) < MIN_VECTORIZED:
        try:
            times = np.array([check_event(event, received_micros, any_time=any_time) for event in events], np.int64)
        except Reject:
            raise Suspect from None
        return build_columns(events, times)
    stamps = [event.time for event in events]
    columns = Columns(
        ids=_check_names([event.id for event in events]),
        sources=names_of([event.source for event in events]),
        types=names_of([event.type for event in events]),
        subjects=_check_names([event.subject for event in events]),
        data=_check_data([event.data for event in events]),
        times=_check_times(
            stamps, received_micros, MAX_MICROS if any_time else received_micros + MAX_FUTURE_MICROS + 1
        ),
        untimed=[] if all(stamps) else [index for index, stamp in enumerate(stamps) if stamp is None],
    )
    few = [*columns.types.distinct, *columns.sources.distinct]
    if not "".join(few).isprintable() or not all(1 <= len(name) <= MAX_FIELD_LENGTH for name in few):
        raise Suspect
    return columns


def _check_names(names: list[str]) -> Texts:
    """The names as UTF-8. They are joined by NUL, which none of them may hold: one that did would be two."""
    joined = "\0".join(names).encode()
    letters = np.frombuffer(joined, np.uint8)
    controls = np.flatnonzero(letters < FIRST_PRINTABLE)
    if len(controls) != len(names) - 1:
        raise Suspect
    if letters.max() > LAST_PRINTABLE and not "".join(names).isprintable():
        raise Suspect
    texts = _split(joined, controls)
    if texts.lengths.min() < 1 or texts.lengths.max() > MAX_FIELD_LENGTH:  # in bytes: no shorter than in characters
        raise Suspect
    return texts


def _check_data(data: list[msgspec.Raw]) -> Texts:
    """The texts of `data`. Outside of strings JSON has no NUL, and inside none that is not escaped."""
    joined = SEPARATOR.join(data)  # pyright: ignore[reportArgumentType, reportCallIssue] - Raw is a buffer
    letters = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(letters == 0)
    texts = _split(joined, ends)
    longest = texts.lengths.max()
    if longest > SAFE_DATA_BYTES or letters[0] != ord("{") or (letters[ends + 1] != ord("{")).any():
        raise Suspect
    if longest > 2 * MAX_DATA_DEPTH:
        items = joined.split(SEPARATOR)
        if any(map(may_be_deep, items)) or (longest > MAX_DIGITS and any(map(may_have_long_number, items))):
            raise Suspect
    return texts


def _split(joined: bytes, separators: Int64s) -> Texts:
    """The texts between the NULs that stand at these places of `joined`, and nowhere else."""
    bounds = np.concatenate(((-1,), separators, (len(joined),)))
    return Texts(joined, bounds[1:] - bounds[:-1] - 1)


def _check_times(stamps: list[str | None], received_micros: int, end_micros: int) -> Int64s:
    """Microseconds of all events' times, which lie before `end_micros`; of their receipt where they have none."""
    if all(stamps):
        times = _read_times(cast("list[str]", stamps))
    else:
        times = np.full(len(stamps), received_micros)
        timed = [index for index, stamp in enumerate(stamps) if stamp is not None]
        if timed:
            times[timed] = _read_times([stamp for stamp in stamps if stamp is not None])
    if times.min() < MIN_MICROS or times.max() >= min(MAX_MICROS, end_micros):
        raise Suspect
    return times


def _read_times(stamps: list[str]) -> Int64s:
    times = read_instants(stamps)
    if times is None:
        raise Suspect
    return times


def identify(columns: Columns, tenant_no: int) -> int:
    """Fill in the identities and return how many events are copies of an earlier one of the same columns."""
    sources, ids = columns.sources, columns.ids.items()
    seeds = [identity_seed(tenant_no, source) for source in sources.distinct]
    of_each = repeat(seeds[0]) if len(seeds) == 1 else map(seeds.__getitem__, sources.codes.tolist())
    columns.identities = b"".join(map(xxhash.xxh3_128_digest, ids, of_each))
    if len(columns) == 1:
        return 0
    words = np.sort(np.frombuffer(columns.identities, np.uint64)[::2])
    if (words[1:] != words[:-1]).all():
        return 0
    return len(columns) - len(set(zip(sources.codes.tolist(), ids, strict=True)))
