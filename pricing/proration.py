"""Proration: the part of an amount that a part of its period costs.

Cumulative rounding: with share(t) = (t − start) / (end − start), a part costs round(whole x share(b)) −
round(whole x share(a)), so parts that cover a period add up to the whole, whatever their number.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import assert_never
from zoneinfo import ZoneInfo

from pricing.explain import ExplainRow
from pricing.periods import INVALID_PERIOD, zone
from schemas.errors import Reject
from schemas.instants import MICROSECOND, Period, format_instant
from schemas.money import currency_exponent, exactly, format_decimal, round_ratio


class Basis(StrEnum):
    SECOND = "second"
    DAY = "day"  # of the customer's timezone; the day of a change belongs to the new state


@dataclass(frozen=True, slots=True, kw_only=True)
class Proration:
    """A rounded amount and the two rows that add up to it."""

    amount: Decimal
    explain: tuple[ExplainRow, ...]


@exactly
def prorate(
    whole: Decimal,
    *,
    currency: str,
    period: Period,
    start: datetime,
    end: datetime,
    basis: Basis = Basis.SECOND,
    timezone: str = "UTC",
) -> Proration:
    """What [start, end) of `period` costs when all of it costs `whole`.

    Raises Reject `pricing.invalid_period` for an empty period or a part outside it, `pricing.invalid_timezone`;
    ValueError for an unknown currency.
    """
    if period.start >= period.end:
        raise Reject.at("/period", INVALID_PERIOD, "must end after it starts")
    if not period.start <= start <= period.end:
        raise Reject.at("/from", INVALID_PERIOD, "lies outside the period")
    if not start <= end <= period.end:
        raise Reject.at("/to", INVALID_PERIOD, "lies outside the period or before the start of the part")
    tz = zone(timezone)
    scale = currency_exponent(currency)
    before = until(start, whole, period, basis, tz, scale)
    after = until(end, whole, period, basis, tz, scale)
    return Proration(
        amount=after.amount - before.amount,
        explain=(after, ExplainRow(f"less {before.what}", None, None, -before.amount)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change inside a period: what the old state gives back for the rest of it, and what the new one costs."""

    credit: Proration  # negative for a positive old amount
    charge: Proration


def change(
    old: Decimal,
    new: Decimal,
    *,
    currency: str,
    period: Period,
    at: datetime,
    basis: Basis = Basis.SECOND,
    timezone: str = "UTC",
) -> Change:
    """The two lines of a change of quantity or plan at an instant of a period that was billed in advance."""

    def rest_of(whole: Decimal) -> Proration:
        return prorate(
            whole, currency=currency, period=period, start=at, end=period.end, basis=basis, timezone=timezone
        )

    return Change(credit=rest_of(old.copy_negate()), charge=rest_of(new))


def until(instant: datetime, whole: Decimal, period: Period, basis: Basis, tz: ZoneInfo, scale: int) -> ExplainRow:
    """round(whole x share(instant)). The product is exact before it is rounded: multiply, then divide."""
    passed, length = share(instant, period, basis, tz)
    amount = round_ratio(whole * passed, Decimal(length), scale)
    what = (
        f"{format_decimal(whole)} x {Fraction(passed, length)} of the period until {format_instant(instant)}, rounded"
    )
    return ExplainRow(what, None, None, amount)


def share(instant: datetime, period: Period, basis: Basis, tz: ZoneInfo) -> tuple[int, int]:
    """How much of a period has passed at an instant of it, and how much it is in all.

    A period within one local day has no days to divide: by `day` all of it belongs to its end.
    """
    match basis:
        case Basis.SECOND:
            return (instant - period.start) // MICROSECOND, (period.end - period.start) // MICROSECOND
        case Basis.DAY:
            days = days_between(period.start, period.end, tz)
            return (days_between(period.start, instant, tz), days) if days else (int(instant == period.end), 1)
        case _:
            assert_never(basis)


def days_between(start: datetime, end: datetime, tz: ZoneInfo) -> int:
    try:
        return (end.astimezone(tz).date() - start.astimezone(tz).date()).days
    except OverflowError:
        raise Reject.at("/period", INVALID_PERIOD, "reaches beyond the years 1 to 9999") from None
