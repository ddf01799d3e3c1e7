"""Entitlements: may this customer use so much of a feature now, and which period counts. Decisions, no counters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import accumulate
from typing import assert_never

from pricing.credits import roll_over
from pricing.explain import ZERO
from pricing.periods import Alignment, BillingPeriod, period_containing, zone
from schemas.errors import Reject
from schemas.instants import EPOCH
from schemas.meters import Aggregation
from schemas.money import exactly

INVALID_RESET = "pricing.invalid_reset"
HOUR = timedelta(hours=1)

#: What is used of these is used up: it rises by no more than what was reserved, so that a limit can be kept by holding
#: some of it. The others are levels, which are reached.
USED_UP = frozenset({Aggregation.COUNT, Aggregation.SUM, Aggregation.UNIQUE_COUNT})


class Reset(StrEnum):
    BILLING_PERIOD = "billing_period"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"
    NEVER = "never"


class Enforcement(StrEnum):
    HARD = "hard"
    SOFT = "soft"


class Reason(StrEnum):
    WITHIN_LIMIT = "within_limit"
    UNLIMITED = "unlimited"
    LIMIT_EXCEEDED = "limit_exceeded"
    SOFT_LIMIT_EXCEEDED = "soft_limit_exceeded"
    NO_ENTITLEMENT = "no_entitlement"
    FEATURE_OFF = "feature_off"
    SUBSCRIPTION_INACTIVE = "subscription_inactive"
    DEGRADED = "degraded"  # nothing that knows what is used could be asked


class OnUnknown(StrEnum):
    """Whether a feature may be used while nobody knows how much of it is."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`remaining` is never below 0 and None without a limit; `overage` is how far use and holds are above the limit."""

    allowed: bool
    reason: Reason
    remaining: Decimal | None
    overage: Decimal = ZERO


#: Decisions that no quantity changes.
NO_ENTITLEMENT = Decision(allowed=False, reason=Reason.NO_ENTITLEMENT, remaining=ZERO)
FEATURE_OFF = Decision(allowed=False, reason=Reason.FEATURE_OFF, remaining=ZERO)
FEATURE_ON = Decision(allowed=True, reason=Reason.UNLIMITED, remaining=None)
SUBSCRIPTION_INACTIVE = Decision(allowed=False, reason=Reason.SUBSCRIPTION_INACTIVE, remaining=ZERO)


@exactly
def check(
    *,
    limit: Decimal | None,
    used: Decimal,
    reserved: Decimal = ZERO,
    quantity: Decimal | None = None,
    enforcement: Enforcement = Enforcement.HARD,
) -> Decision:
    """Whether `quantity` more fits a metered feature's limit (None: unlimited).

    Without a quantity: allowed while used + reserved < limit; with one: while used + reserved + quantity ≤ limit.
    A soft limit is always allowed, and says when it is exceeded. Raises Reject for a negative quantity.
    """
    if quantity is not None and quantity < 0:
        raise Reject.at("/quantity", "pricing.invalid_quantity", "must not be negative")
    if limit is None:
        return FEATURE_ON
    taken = used + reserved
    fits = taken < limit if quantity is None else taken + quantity <= limit
    if fits:
        reason = Reason.WITHIN_LIMIT
    else:
        reason = Reason.SOFT_LIMIT_EXCEEDED if enforcement is Enforcement.SOFT else Reason.LIMIT_EXCEEDED
    return Decision(
        allowed=reason is not Reason.LIMIT_EXCEEDED,
        reason=reason,
        remaining=max(ZERO, limit - taken),
        overage=max(ZERO, taken - limit),
    )


def degraded(on_unknown: OnUnknown, *, is_soft: bool = False) -> Decision:
    """The decision while what is used is not known. A soft limit allows in any case."""
    return Decision(allowed=is_soft or on_unknown is OnUnknown.OPEN, reason=Reason.DEGRADED, remaining=None)


@exactly
def carried_over(*, limit: Decimal, used: Decimal, rollover_max: Decimal | None) -> Decimal:
    """What of an unused limit is added to the next period's. Without `rollover_max` nothing is."""
    return ZERO if rollover_max is None else roll_over(max(ZERO, limit - used), maximum=rollover_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementPeriod:
    """The half-open interval in which usage counts towards one limit. It never ends when `end` is None."""

    start: datetime
    end: datetime | None


def entitlement_period(
    instant: datetime,
    reset: Reset,
    *,
    starts_at: datetime,
    timezone: str,
    billing_anchor: datetime,
    billing_period: BillingPeriod = BillingPeriod.MONTH,
    billing_period_count: int = 1,
    alignment: Alignment = Alignment.ANNIVERSARY,
) -> EntitlementPeriod:
    """The period that contains an instant: of the subscription's own billing, or of the calendar in its timezone.

    The first one starts when the subscription does; an instant before that is in no period, which is a Reject.
    """
    if instant < starts_at:
        raise Reject.at("/instant", INVALID_RESET, "lies before the subscription starts")
    match reset:
        case Reset.NEVER:
            return EntitlementPeriod(start=starts_at, end=None)
        case Reset.HOUR:
            start, end = hour_containing(instant, starts_at, timezone)
        case Reset.BILLING_PERIOD:
            if billing_period is BillingPeriod.ONCE:
                return EntitlementPeriod(start=starts_at, end=None)
            if alignment is Alignment.CALENDAR and instant < billing_anchor:
                return EntitlementPeriod(start=starts_at, end=billing_anchor)  # a trial: the anchor is its end
            _, period = period_containing(
                instant, billing_anchor, timezone, billing_period, billing_period_count, alignment
            )
            start, end = period.start, period.end
        case Reset.DAY | Reset.WEEK | Reset.MONTH | Reset.YEAR:
            _, period = period_containing(instant, starts_at, timezone, UNITS[reset], 1, Alignment.CALENDAR)
            start, end = period.start, period.end
        case _:
            assert_never(reset)
    return EntitlementPeriod(start=max(start, starts_at), end=end)


UNITS = {
    Reset.DAY: BillingPeriod.DAY,
    Reset.WEEK: BillingPeriod.WEEK,
    Reset.MONTH: BillingPeriod.MONTH,
    Reset.YEAR: BillingPeriod.YEAR,
}


def hour_containing(instant: datetime, starts_at: datetime, timezone: str) -> tuple[datetime, datetime]:
    """The hour of the clock in the timezone, always 60 minutes long.

    The minute at which hours turn is the one of the offset in force at `starts_at`, so that hours never overlap where
    clocks change by half an hour.
    """
    offset = starts_at.astimezone(zone(timezone)).utcoffset() or timedelta(0)
    start = instant - (instant - EPOCH + offset) % HOUR
    return start, start + HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One limit of a metered feature (None: none), and what has been used since its present period began."""

    limit: Decimal | None
    used: Decimal
    since: datetime
    enforcement: Enforcement = Enforcement.HARD


@exactly
def stack(allowances: Sequence[Allowance], aggregation: Aggregation) -> Allowance:
    """Several limits of one feature as one: their sum, and one without a limit makes the whole unlimited. The whole is
    soft when one of them is. `used` is what of the sum is taken, of usage that a meter counts by `aggregation`.

    Where periods began at different instants, what was used before the later one began is taken from the earlier one
    alone, and no more than that had; the rest of it was the former period's of the later one.
    """
    if len(allowances) == 1:
        return allowances[0]
    ordered = sorted(allowances, key=lambda each: each.since)
    unlimited = [each for each in ordered if each.limit is None]
    if unlimited:
        return unlimited[-1]
    is_soft = any(each.enforcement is Enforcement.SOFT for each in ordered)
    limits = [each.limit for each in ordered if each.limit is not None]
    used = (_used_up if aggregation in USED_UP else _reached)(limits, [each.used for each in ordered])
    return Allowance(
        limit=sum(limits, ZERO),
        used=used,
        since=ordered[0].since,
        enforcement=Enforcement.SOFT if is_soft else Enforcement.HARD,
    )


def _used_up(limits: Sequence[Decimal], used: Sequence[Decimal]) -> Decimal:
    """What is taken of limits, the earliest first, by what is used up: once since each began."""
    left = ZERO
    for limit, since_then, following in zip(limits, used, [*used[1:], None], strict=True):
        taken = since_then if following is None else max(ZERO, since_then - following)
        left = max(ZERO, left) + limit - taken
    return sum(limits, ZERO) - left


def _reached(limits: Sequence[Decimal], used: Sequence[Decimal]) -> Decimal:
    """How far up limits that lie on each other were reached, the earliest first, by levels: nobody was above what was
    allowed before a later limit began. Exact for a maximum, and no less than what is right for the others."""
    tops = list(accumulate(limits))
    return max([*map(min, tops[:-1], used[:-1]), used[-1]])
