"""Billing periods by the calendar: local wall time is kept, the day of month is clamped and never drifts.

Nothing of the product is imported here or beside: an oracle that shares code with what it judges shares its mistakes.
"""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MONTHS = {"month": 1, "quarter": 3, "half_year": 6, "year": 12}
DAYS = {"day": 1, "week": 7}

Span = tuple[datetime, datetime]


def months_later(local: datetime, months: int) -> datetime:
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    return local.replace(year=year, month=month + 1, day=min(local.day, monthrange(year, month + 1)[1]))


@dataclass(frozen=True)
class Grid:
    """All periods of one price. By calendar they are those of the calendar's own units, whatever the anchor."""

    anchor: datetime
    zone: str
    unit: str
    by_calendar: bool = False

    def _first(self) -> datetime:
        local = self.anchor.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None, fold=0)
        if not self.by_calendar:
            return local
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.unit in DAYS:
            return midnight - timedelta(days=midnight.weekday() if self.unit == "week" else 0)
        months = MONTHS[self.unit]
        return midnight.replace(month=(midnight.month - 1) // months * months + 1, day=1)

    def start(self, number: int) -> datetime:
        """The instant at which a period begins, counted from the anchor's; numbers may be below zero."""
        first = self._first()
        if self.unit in DAYS:
            local = first + timedelta(days=DAYS[self.unit] * number)
        else:
            local = months_later(first, MONTHS[self.unit] * number)
        return local.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC)

    def _find(self, is_left_of: Callable[[datetime], bool]) -> Span:
        """The last period whose start lies left of something."""
        number = 0
        while is_left_of(self.start(number + 1)):
            number += 1
        while not is_left_of(self.start(number)):
            number -= 1
        return self.start(number), self.start(number + 1)

    def containing(self, instant: datetime) -> Span:
        """The period [start, end) that has the instant in it."""
        return self._find(lambda start: start <= instant)

    def ending(self, instant: datetime) -> Span:
        """The period that has the instant in it or ends with it: (start, end]."""
        return self._find(lambda start: start < instant)
