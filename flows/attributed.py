"""A judged batch: what became of every event, and what each meter takes from it."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from flows.events import Events, Rows
from schemas.catalogue import MeterEntry


class Status(IntEnum):
    """As the enumeration of the events table."""

    COUNTED = 1
    UNMATCHED = 2
    QUARANTINED = 3
    VOIDED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one meter takes from some rows of a batch: `whole` x 10^12 + `part` units of 10^-12 from each.

    `groups` has one column of codes a property of the meter's `group_by`; they index `Attributed.texts`, and so do
    `texts`: what a unique count counts, None for every other aggregation.
    """

    meter: MeterEntry
    rows: Rows
    whole: NDArray[np.int64]
    part: NDArray[np.int64]
    groups: list[NDArray[np.int64]]
    texts: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Giant:
    """One value too large for the columns above, in units of 10^-12."""

    meter: MeterEntry
    row: int
    units: int
    groups: tuple[int, ...]


@dataclass(slots=True)
class Attributed:
    """A batch of events, judged. `texts` are the group values that codes of contributions stand for."""

    events: Events
    customers: NDArray[np.uint64]  # 0: unknown
    status: NDArray[np.int8]
    codes: dict[int, str] = field(default_factory=dict[int, str])  # by row, of quarantined events
    contributions: list[Contribution] = field(default_factory=list[Contribution])
    giants: list[Giant] = field(default_factory=list[Giant])
    texts: dict[str, int] = field(default_factory=dict[str, int])
    #: What counts of each event: 1, 0 or -1. None: 1, but 0 of what is quarantined.
    effects: NDArray[np.int8] | None = None
    #: The offset of the message that changed each event. None: all are as they came.
    change_offsets: NDArray[np.int64] | None = None
    #: What is decided about the event stands already: a meter that can't read it takes nothing, and the others do.
    decided: bool = False

    def quarantine(self, row: int, code: str) -> None:
        self.status[row] = Status.QUARANTINED
        self.codes[row] = code

    def effect_of(self, row: int) -> int:
        """What counts of an event that is not quarantined: 1 or -1."""
        return 1 if self.effects is None else int(self.effects[row])

    def effects_of(self, rows: Rows) -> NDArray[np.int8]:
        """`effect_of` of many."""
        return np.ones(len(rows), np.int8) if self.effects is None else self.effects[rows]

    def text_code(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))
