"""What bodies say of wallets and grants, read into minor units."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from pydantic import Field
from typing_extensions import TypedDict

from ingestion_api.fields import Body, DecimalText, Instant, Metadata, Name
from pricing.periods import BillingPeriod
from pricing.top_ups import AutoTopUp
from pricing.wallets import WalletGrant
from schemas.errors import Reject
from schemas.money import format_amount, from_minor, to_minor
from schemas.wallets import DEFAULT_PRIORITY, GrantKind, GrantStatus

INVALID_AMOUNT = "wallet.invalid_amount"
INVALID_GRANT = "wallet.invalid_grant"
INVALID_AUTO_TOP_UP = "wallet.invalid_auto_top_up"

MAX_AMOUNT = Decimal(10**12)
MAX_PRIORITY = 1_000
MAX_BACKDATING = timedelta(days=366)  # of a grant's start: everything since then happens at once
MAX_COOL_OFF_SECONDS = 366 * 86_400
DEFAULT_COOL_OFF_SECONDS = 3_600

Priority = Annotated[int, Field(ge=0, le=MAX_PRIORITY, description="Lower ones burn first.")]
Every = Annotated[BillingPeriod, Field(strict=False)]
Kind = Annotated[GrantKind, Field(strict=False)]


class RecurrenceBody(Body):
    """Refills to the full amount at `anchor` (default: the grant's start) + n times `every`."""

    every: Every
    anchor: Instant | None = None


class GrantBody(Body):
    """`expires_at` is exclusive. At a refill min(rollover_max, max(rollover_min, balance)) lives on; the default is
    that nothing does."""

    amount: DecimalText
    kind: Kind = GrantKind.PROMOTIONAL
    priority: Priority = DEFAULT_PRIORITY
    name: Name | None = None
    effective_at: Instant | None = None
    expires_at: Instant | None = None
    recurrence: RecurrenceBody | None = None
    rollover_min: DecimalText | None = None
    rollover_max: DecimalText | None = None
    metadata: Metadata


class AutoTopUpBody(Body):
    """Below `threshold` the wallet is topped up by `amount`, or up to `target`: one of the two. Not sooner than
    `cool_off_seconds` after the last time, and not beyond `monthly_cap` in a calendar month of the customer's."""

    threshold: DecimalText
    amount: DecimalText | None = None
    target: DecimalText | None = None
    cool_off_seconds: Annotated[int, Field(ge=0, le=MAX_COOL_OFF_SECONDS)] = DEFAULT_COOL_OFF_SECONDS
    monthly_cap: DecimalText | None = None


class AutoTopUpView(TypedDict):
    threshold: str
    amount: str | None
    target: str | None
    cool_off_seconds: int
    monthly_cap: str | None


def read_minor(text: str, currency: str, field: str, *, zero: bool = False) -> int:
    """An amount in minor units, more than 0 (or 0). Raises Reject `wallet.invalid_amount`."""
    amount = Decimal(text)
    if amount < 0 or (amount == 0 and not zero) or amount > MAX_AMOUNT:
        least = "0 or more" if zero else "more than 0"
        raise Reject.at(field, INVALID_AMOUNT, f"Must be {least} and at most {MAX_AMOUNT}.")
    try:
        return to_minor(amount, currency)
    except ValueError as error:
        raise Reject.at(field, INVALID_AMOUNT, f"{error}.") from None


def format_minor(minor: int, currency: str) -> str:
    return format_amount(from_minor(minor, currency), currency)


def read_grant(body: GrantBody, currency: str, grant_id: str, now: datetime) -> WalletGrant:
    """The grant of a body, not stored yet. Raises Reject `wallet.invalid_amount|invalid_grant`."""
    if body.kind is GrantKind.CREDIT:
        raise Reject.at("/kind", INVALID_GRANT, "Credit comes from invoices and credit notes; say paid or promotional.")
    effective_at = body.effective_at or now
    if effective_at < now - MAX_BACKDATING:
        raise Reject.at("/effective_at", INVALID_GRANT, f"At most {MAX_BACKDATING.days} days ago.")
    if body.expires_at is not None and body.expires_at <= max(effective_at, now):
        raise Reject.at("/expires_at", INVALID_GRANT, "Must lie after the start and after now.")
    recurrence = body.recurrence
    if recurrence is None and (body.rollover_min is not None or body.rollover_max is not None):
        raise Reject.at("/recurrence", INVALID_GRANT, "Only a grant that recurs rolls over.")
    if recurrence is not None and recurrence.every is BillingPeriod.ONCE:
        raise Reject.at("/recurrence/every", INVALID_GRANT, "What comes once does not recur.")
    return WalletGrant(
        id=grant_id,
        kind=body.kind,
        amount_minor=read_minor(body.amount, currency, "/amount"),
        priority=body.priority,
        effective_at=effective_at,
        expires_at=body.expires_at,
        every=None if recurrence is None else recurrence.every,
        anchor=None if recurrence is None else recurrence.anchor or effective_at,
        rollover_min_minor=read_minor(body.rollover_min or "0", currency, "/rollover_min", zero=True),
        rollover_max_minor=read_minor(body.rollover_max or "0", currency, "/rollover_max", zero=True),
        status=GrantStatus.SCHEDULED,
        is_new=True,
    )


def read_auto_top_up(body: AutoTopUpBody, currency: str) -> dict[str, Any]:
    """The settings of automatic top-ups, as they are stored. Raises Reject."""
    if (body.amount is None) == (body.target is None):
        raise Reject.at("/auto_top_up", INVALID_AUTO_TOP_UP, "Give either an amount or a target.")

    def read(text: str | None, name: str) -> int | None:
        return None if text is None else read_minor(text, currency, f"/auto_top_up/{name}")

    settings = AutoTopUp(
        threshold_minor=read_minor(body.threshold, currency, "/auto_top_up/threshold"),
        amount_minor=read(body.amount, "amount"),
        target_minor=read(body.target, "target"),
        cool_off_seconds=body.cool_off_seconds,
        monthly_cap_minor=read(body.monthly_cap, "monthly_cap"),
    )
    if settings.target_minor is not None and settings.target_minor < settings.threshold_minor:
        raise Reject.at("/auto_top_up/target", INVALID_AUTO_TOP_UP, "Must not be less than the threshold.")
    cap, amount = settings.monthly_cap_minor, settings.amount_minor or 0
    if cap is not None and cap < amount:
        raise Reject.at("/auto_top_up/monthly_cap", INVALID_AUTO_TOP_UP, "Not even one top-up fits under this cap.")
    return msgspec.to_builtins(settings)


def auto_top_up_view(stored: dict[str, Any] | None, currency: str) -> AutoTopUpView | None:
    if stored is None:
        return None
    settings = msgspec.convert(stored, AutoTopUp)

    def text(minor: int | None) -> str | None:
        return None if minor is None else format_minor(minor, currency)

    return {
        "threshold": format_minor(settings.threshold_minor, currency),
        "amount": text(settings.amount_minor),
        "target": text(settings.target_minor),
        "cool_off_seconds": settings.cool_off_seconds,
        "monthly_cap": text(settings.monthly_cap_minor),
    }
