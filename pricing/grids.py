"""Grids: the periods of prices, whole ones, counted from a subscription's one anchor."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from pricing.periods import Alignment, BillingPeriod, Schedule, add_units, resolve, schedule
from schemas.instants import Period

KNOWN_PERIODS = 256  # of one grid, kept in memory
KNOWN_ANCHORS = 1_024  # whose grids are kept: many subscriptions share one


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The periods of one price, whole ones: a first period cut short is still part of a whole one.

    Found periods are kept, up to KNOWN_PERIODS: prices and subscriptions ask for the same few again and again.
    """

    schedule: Schedule
    _found: dict[datetime, Period] = field(default_factory=dict[datetime, Period], repr=False)

    def containing(self, instant: datetime) -> Period:
        """The whole period with start <= instant < end."""
        period = self._found.get(instant)
        if period is None:
            if len(self._found) >= KNOWN_PERIODS:
                self._found.clear()
            period = self._found[instant] = self._find(instant)
        return period

    def _find(self, instant: datetime) -> Period:
        terms = self.schedule
        n = terms.index_at(instant)
        if n == 0 and terms.short:
            start = resolve(add_units(terms.base, terms.billing_period, -terms.count), terms.timezone)
            return Period(start=start, end=terms.start(1))
        return terms.period(n)

    def ending(self, instant: datetime) -> Period:
        """The whole period with start < instant <= end."""
        return self.containing(instant - datetime.resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grids:
    """All grids of one anchor; what has the same period shares one."""

    anchor: datetime
    timezone: str
    alignment: Alignment
    _made: dict[tuple[BillingPeriod, int], Grid] = field(
        default_factory=dict[tuple[BillingPeriod, int], Grid], repr=False, compare=False
    )

    def of(self, billing_period: BillingPeriod, count: int = 1) -> Grid | None:
        """The periods of a unit; None for what is billed once. Raises Reject."""
        if billing_period is BillingPeriod.ONCE:
            return None
        unit = (billing_period, count)
        if unit not in self._made:
            self._made[unit] = Grid(schedule(self.anchor, self.timezone, *unit, self.alignment))
        return self._made[unit]


@lru_cache(maxsize=KNOWN_ANCHORS)
def grids_of(anchor: datetime, timezone: str, alignment: Alignment) -> Grids:
    """The grids of an anchor."""
    return Grids(anchor=anchor, timezone=timezone, alignment=alignment)
