"""When a wallet tops itself up, and by how much."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pricing.periods import BillingPeriod, add_units, resolve, unit_start, zone


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTopUp:
    """Below `threshold_minor` the wallet gets `amount_minor`, or what is missing to `target_minor`: one of the two.

    Never sooner than `cool_off_seconds` after the last one was made, and never so that those of a calendar month (of
    the customer's timezone) come to more than `monthly_cap_minor`; None: no cap.
    """

    threshold_minor: int
    cool_off_seconds: int
    amount_minor: int | None = None
    target_minor: int | None = None
    monthly_cap_minor: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUps:
    """The automatic top-ups so far: the last one, voided ones too; what those of this month come to, voided ones not;
    whether one waits for its payment, and is not given up."""

    last_at: datetime | None
    month_minor: int
    is_unpaid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How much to top up now (0: nothing), and when to ask again by the clock (None: when the wallet has changed)."""

    amount_minor: int
    ask_at: datetime | None


def decide(settings: AutoTopUp, made: TopUps, *, balance_minor: int, timezone: str, now: datetime) -> Decision:
    """Whether a wallet is topped up now. One that waits for a payment is not: the next would only be owed as well."""
    if balance_minor >= settings.threshold_minor or made.is_unpaid:
        return Decision(amount_minor=0, ask_at=None)
    if made.last_at is not None:
        free_at = made.last_at + timedelta(seconds=settings.cool_off_seconds)
        if free_at > now:
            return Decision(amount_minor=0, ask_at=free_at)
    amount = amount_now(settings, balance_minor)
    cap = settings.monthly_cap_minor
    if cap is not None and made.month_minor + amount > cap:
        return Decision(amount_minor=0, ask_at=month_of(now, timezone)[1])
    return Decision(amount_minor=amount, ask_at=None)


def amount_now(settings: AutoTopUp, balance_minor: int) -> int:
    """How much a top-up would be."""
    if settings.amount_minor is not None:
        return settings.amount_minor
    assert settings.target_minor is not None
    return settings.target_minor - balance_minor


def month_of(instant: datetime, timezone: str) -> tuple[datetime, datetime]:
    """The calendar month that contains an instant: its start and its end."""
    tz = zone(timezone)
    day = unit_start(instant.astimezone(tz).date(), BillingPeriod.MONTH)
    start = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a wall time; `resolve` gives it its zone
    return resolve(start, tz).astimezone(UTC), resolve(add_units(start, BillingPeriod.MONTH, 1), tz).astimezone(UTC)
