"""What a subscription's body must satisfy, and what follows from it: its terms, its entitlements, its periods."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.postgres.meters import load_meters
from infra.postgres.pool import PgConnection, Row
from ingestion_api.control.plan_terms import check_billable
from ingestion_api.problems import pointer
from pricing.changes import amended
from pricing.charges import PriceType, parse_plan_price, serialize
from pricing.commitments import read_agreed_commitment
from pricing.periods import BillingPeriod, add_units, resolve, zone
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription, TrialEnd
from schemas.errors import Reject
from schemas.instants import Period
from schemas.money import to_minor

MAX_QUANTITY = Decimal(10**12)
MAX_MISSED_PERIODS = 1_000  # periods of one price between a start in the past and now: each makes an invoice at once

FIXED_TERMS = ("key", "type", "meter", "currency")  # an override is of the same price, not another one


def read_overrides(
    connection: PgConnection,
    overrides: Mapping[str, Mapping[str, Any]],
    prices: Sequence[Mapping[str, Any]],
    *,
    tenant_id: str,
    currency: str,
) -> dict[str, dict[str, Any]]:
    """The overrides as whole prices, every default written out. What an override does not name is the plan's.

    Raises Reject: `subscription.unknown_price`, `subscription.invalid_override`, `pricing.*`, with the pointer.
    """
    by_key = {price["key"]: price for price in prices}
    stored: dict[str, dict[str, Any]] = {}
    for key, override in overrides.items():
        where = pointer("price_overrides", key)
        price = by_key.get(key)
        if price is None:
            raise Reject.at(where, "subscription.unknown_price", f"The plan has no price {key!r}.")
        for name in FIXED_TERMS:
            if name in override and override[name] != price.get(name):
                raise Reject.at(
                    where + pointer(name), "subscription.invalid_override", f"An override keeps the plan's {name}."
                )
        parsed = parse_plan_price(amended(price, override), where, currency=currency)
        meter = _load_meter(connection, tenant_id, parsed.meter)
        check_billable(parsed, meter, where)
        stored[key] = serialize(parsed)
    return stored


def _load_meter(connection: PgConnection, tenant_id: str, key: str | None) -> Row | None:
    return None if key is None else load_meters(connection, tenant_id=tenant_id, references=[key]).get(key)


def check_quantities(quantities: Mapping[str, str], prices: Sequence[Mapping[str, Any]]) -> None:
    """Quantities are of fixed prices among these bodies, from 0 to MAX_QUANTITY. Raises Reject."""
    by_key = {price["key"]: price for price in prices}
    for key, quantity in quantities.items():
        where = pointer("quantities", key)
        price = by_key.get(key)
        if price is None:
            raise Reject.at(where, "subscription.unknown_price", f"Neither the plan nor an add-on has a price {key!r}.")
        if price["type"] != PriceType.FIXED:
            raise Reject.at(
                where, "subscription.invalid_quantity", f"{key!r} is priced by usage: its meter gives the quantity."
            )
        if not 0 <= Decimal(quantity) <= MAX_QUANTITY:
            raise Reject.at(where, "subscription.invalid_quantity", f"Must be from 0 to {MAX_QUANTITY}.")


def check_commitment(commitment: Mapping[str, Any] | None) -> None:
    """A commitment has an `amount`, an `overage_factor`, `true_up`, and maybe a billing period. Raises Reject."""
    if commitment is not None:
        read_agreed_commitment(commitment, "/commitment")


def read_threshold(text: str | None, currency: str) -> Decimal | None:
    """An amount of usage that makes an invoice, above 0. Raises Reject."""
    if text is None:
        return None
    try:
        is_above_zero = to_minor(Decimal(text), currency) > 0
    except ValueError as error:
        raise Reject.at("/invoice_threshold", "request.invalid_field", f"{error}.") from None
    if not is_above_zero:
        raise Reject.at("/invoice_threshold", "request.invalid_field", "Must be more than 0.")
    return Decimal(text)


def check_terms(subscription: BilledSubscription, *, now: datetime) -> Terms:
    """The terms, once they hold together: an end after the start, and no flood of missed periods. Raises Reject."""
    if subscription.end_at is not None and subscription.end_at <= subscription.start_at:
        raise Reject.at("/end_at", "subscription.invalid_end", "The end must be later than the start.")
    terms = read_terms(subscription)
    until = now if terms.stop_at is None else min(now, terms.stop_at)
    for grid in set(terms.grids.values()):
        if until <= terms.start_at:
            break
        if grid.schedule.index_at(until) - grid.schedule.index_at(terms.start_at) > MAX_MISSED_PERIODS:
            raise Reject.at(
                "/start_at",
                "subscription.too_many_missed_periods",
                f"More than {MAX_MISSED_PERIODS} periods have passed since then, and each would be an invoice.",
            )
    return terms


def current_period(terms: Terms, now: datetime) -> Period | None:
    """The longest running billing period, the one that `period_end` speaks of; None before, after and without any."""
    if now < terms.start_at or (terms.stop_at is not None and terms.stop_at <= now) or not terms.grids:
        return None
    period = max((grid.containing(now) for grid in terms.grids.values()), key=lambda period: period.end)
    end = period.end if terms.stop_at is None else min(period.end, terms.stop_at)
    return Period(start=max(period.start, terms.start_at), end=end)


def stop_of(subscription: BilledSubscription) -> datetime | None:
    """The instant from which on the subscription entitles to nothing, as far as it is known."""
    stops = [subscription.end_at, subscription.cancel_at]
    if subscription.trial_end_behavior == TrialEnd.CANCEL:
        stops.append(subscription.trial_end_at)
    return min((stop for stop in stops if stop is not None), default=None)


def with_cancellation(
    subscription: BilledSubscription, cancel_at: datetime | None, *, prorate: bool
) -> BilledSubscription:
    """The subscription as it will be once it is to be canceled at an instant, or is not to be any more."""
    return replace(subscription, cancel_at=cancel_at, cancel_proration=prorate)


def trial_end_of(start_at: datetime, days: int, timezone: str) -> datetime:
    """The end of a trial of so many days: the same time of the day in the billing timezone."""
    tz = zone(timezone)
    local = start_at.astimezone(tz).replace(tzinfo=None)
    return resolve(add_units(local, BillingPeriod.DAY, days), tz)
