"""Runs: maximal stretches of time in which one price of a subscription is in force, by the same body and quantity.

Usage is cut where its price changes, always. A fee is cut there when the change is prorated and the fee can be shared
out by time; if not, the old one runs on to the end of its period and the new one begins there.

What is billed at an instant may already be when a change is made at that very instant. Such a change is late: its lines
are due a moment after its start, and so stand on the next statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from pricing.charges import PlanPrice, PriceType, Timing
from pricing.grids import Grid

MOMENT = datetime.resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """A price as a phase has it. `body` is it as it is stored and shown; `quantity` is None for usage, `grid` for what
    is billed once."""

    price: PlanPrice
    body: Mapping[str, object]
    quantity: Decimal | None
    grid: Grid | None

    @property
    def is_usage(self) -> bool:
        return self.price.price.type is PriceType.USAGE

    def is_same(self, other: "Agreed | None") -> bool:
        return other is not None and self.quantity == other.quantity and self.body == other.body


class Change(Protocol):
    """What runs must know of a phase: what is agreed from its start on, by the key of the price."""

    @property
    def starts_at(self) -> datetime: ...
    @property
    def agreed(self) -> Mapping[str, Agreed]: ...
    @property
    def is_paused(self) -> bool: ...
    @property
    def prorate(self) -> bool: ...
    @property
    def is_late(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A price in force from `start` up to `end` (None: nothing ends it). Lines of its start and of its end are due at
    `starts_due` and `ends_due`. `added` is what a price that is billed once charges: what is new of its quantity."""

    agreed: Agreed
    start: datetime
    starts_due: datetime
    end: datetime | None = None
    ends_due: datetime | None = None
    added: Decimal | None = None

    @property
    def price(self) -> PlanPrice:
        return self.agreed.price

    @property
    def grid(self) -> Grid | None:
        return self.agreed.grid

    @property
    def is_arrears(self) -> bool:
        return self.price.timing is Timing.ARREARS

    def is_open_at(self, instant: datetime) -> bool:
        """Whether it is in force at the instant."""
        return self.start <= instant and (self.end is None or instant < self.end)


def build_runs(phases: Sequence[Change], begin: datetime) -> tuple[Run, ...]:
    """The runs from `begin` on, those of one price after another. Phases by their start."""
    begun = sum(phase.starts_at <= begin and not phase.is_late for phase in phases)  # these come first
    first = phases[begun - 1].agreed if begun else {}
    tracks: dict[str, list[Run]] = {
        key: [Run(agreed=agreed, start=begin, starts_due=begin, added=agreed.quantity)] for key, agreed in first.items()
    }
    for phase in phases[begun:]:
        for key in (*tracks, *(key for key in phase.agreed if key not in tracks)):
            track = tracks.setdefault(key, [])
            track[:] = _changed(track, phase, phase.agreed.get(key))
    return tuple(run for track in tracks.values() for run in track)


def _changed(track: Sequence[Run], phase: Change, new: Agreed | None) -> Iterable[Run]:
    """The runs of one price after a change to `new`; None: it is no longer agreed."""
    at = phase.starts_at
    last = track[-1] if track else None
    if last is not None and last.end is None and last.agreed.is_same(new):
        return track
    begun = [run for run in track if run.start <= at]
    old = begun[-1] if begun and (begun[-1].end is None or at < begun[-1].end) else None
    if old is None:
        return begun if new is None else [*begun, _start(phase, new, after=None)]
    if old.grid is None:
        return _changed_once(begun, phase, new)
    if old.agreed.is_same(new):
        return [*begun[:-1], replace(old, end=None, ends_due=None)]
    ended = _end(phase, old)
    kept = [*begun[:-1], ended]
    if ended.start == ended.end and ended.ends_due is not None and ended.ends_due <= ended.starts_due:
        kept.pop()  # replaced at the very instant of its start
    return kept if new is None else [*kept, _start(phase, new, after=ended)]


def _changed_once(begun: Sequence[Run], phase: Change, new: Agreed | None) -> Sequence[Run]:
    """A price that is billed once is charged for what its quantity grows by; a pause is nothing to it."""
    old = begun[-1]
    if phase.is_paused or old.agreed.is_same(new):
        return begun
    at, due = phase.starts_at, _due(phase)
    ended = [*begun[:-1], replace(old, end=at, ends_due=due)]
    if new is None:
        return ended
    held = old.agreed.quantity or Decimal(0)
    added = None if new.quantity is None else max(new.quantity - held, Decimal(0))
    return [*ended, Run(agreed=new, start=at, starts_due=due, added=added)]


def _due(phase: Change) -> datetime:
    return phase.starts_at + MOMENT if phase.is_late else phase.starts_at


def _end(phase: Change, old: Run) -> Run:
    at = phase.starts_at
    assert old.grid is not None
    if old.agreed.is_usage or (phase.prorate and old.price.prorate):
        return replace(old, end=at, ends_due=_due(phase))
    is_charged = phase.is_late and not old.is_arrears  # for the period that begins here too
    end = old.grid.containing(at).end if is_charged else old.grid.ending(at).end
    return replace(old, end=end, ends_due=_due(phase) if end == at else end)


def _start(phase: Change, new: Agreed, *, after: Run | None) -> Run:
    at = phase.starts_at
    if new.is_usage or new.grid is None:
        start = at
    elif after is not None and not after.agreed.is_usage:
        assert after.end is not None
        start = after.end
    else:
        start = at if phase.prorate else new.grid.ending(at).end
    return Run(agreed=new, start=start, starts_due=_due(phase) if start == at else start, added=new.quantity)
