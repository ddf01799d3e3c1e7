"""A subscription's terms: the prices of its phases with overrides, add-ons and quantities, read once, and their runs.

Every price has its own periods, all counted from the same anchor, so that a yearly fee and monthly usage meet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import cast

import msgspec

from pricing.changes import CHANGES, amended
from pricing.charges import PlanPrice, Price, PriceType, parse_plan_price, serialize
from pricing.commitments import AgreedCommitment, read_agreed_commitment
from pricing.fields import read_decimal
from pricing.grids import Grid, Grids, grids_of
from pricing.invoice_taxes import TaxRate, read_tax_rates
from pricing.models import Flat, PerUnit
from pricing.periods import Alignment
from pricing.runs import Agreed, Run, build_runs
from schemas.billing import BilledSubscription, Phase, TrialEnd
from schemas.errors import Reject

DEFAULT_QUANTITY = Decimal(1)  # of a fixed price for which the subscription names none
KNOWN_PRICE_LISTS = 1_024  # parsed plans kept in memory; a plan's version never changes


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTerms:
    """One phase, read. `grids` are the periods of its prices by key; a price that is billed once has none.

    `agreed` are its prices by key with their quantities; none while paused. A commitment that has a period of its own
    has `commitment_grid`.
    """

    starts_at: datetime
    prices: tuple[PlanPrice, ...]
    agreed: Mapping[str, Agreed]
    grids: Mapping[str, Grid]
    commitment: AgreedCommitment | None = None
    commitment_grid: Grid | None = None
    is_paused: bool = False
    prorate: bool = True
    invoice_now: bool = False
    is_late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedDiscount:
    """A discount of the subscription, at its place among all of them."""

    place: int
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What decides a subscription's statements.

    `begins_at` is the start, or the end of a trial: nothing before it is billed. `end_at` is part of the contract from
    its first day: the last period is cut short by it as the first is by the start. `cancel_at` comes later: what was
    charged in advance stays charged, or is credited when `cancel_proration` says so.
    """

    currency: str
    timezone: str
    start_at: datetime
    begins_at: datetime
    phases: tuple[PhaseTerms, ...]
    runs: tuple[Run, ...]
    discounts: Sequence[AgreedDiscount] = ()  # of the invoice, one after another, those that are not used up
    taxes: tuple[TaxRate, ...] = ()
    end_at: datetime | None = None
    cancel_at: datetime | None = None
    cancel_proration: bool = False
    billed_until: datetime | None = None
    stop_at: datetime | None = field(init=False)  # the instant of the closing statement

    def __post_init__(self) -> None:
        stops = [stop for stop in (self.end_at, self.cancel_at) if stop is not None]
        object.__setattr__(self, "stop_at", min(stops, default=None))

    @property
    def prices(self) -> tuple[PlanPrice, ...]:
        """The prices of the first phase."""
        return self.phases[0].prices

    @property
    def grids(self) -> Mapping[str, Grid]:
        """The periods of the first phase's prices, by key."""
        return self.phases[0].grids

    def phase_at(self, instant: datetime) -> PhaseTerms:
        """The phase in force at an instant; before the start the first one."""
        found = self.phases[0]
        for phase in self.phases[1:]:
            if phase.starts_at <= instant:
                found = phase
        return found


def read_terms(subscription: BilledSubscription) -> Terms:
    """The terms of a stored subscription. Raises Reject `pricing.*` when a price or another term can't be read."""
    begins_at = subscription.trial_end_at or subscription.start_at
    alignment = Alignment(subscription.alignment)
    # A calendar has its own cuts: the anchor says nothing but where the first, short period begins. A trial moves it.
    is_start = alignment is Alignment.CALENDAR or subscription.trial_end_at is not None
    anchor = begins_at if is_start else subscription.billing_anchor
    grids = grids_of(anchor, subscription.timezone, alignment)
    cancel_at = _cancel_at(subscription)
    stop_at = min((stop for stop in (subscription.end_at, cancel_at) if stop is not None), default=None)
    phases = tuple(
        _read_phase(phase, subscription.currency, grids)
        for phase in subscription.timeline
        if phase.no == 0 or not _comes_too_late(phase, stop_at, subscription.billed_until)
    )
    return Terms(
        currency=subscription.currency,
        timezone=subscription.timezone,
        start_at=subscription.start_at,
        begins_at=begins_at,
        phases=phases,
        runs=build_runs(phases, begins_at),
        discounts=tuple(
            AgreedDiscount(place=place, body=body)
            for place, body in enumerate(subscription.discounts)
            if not is_used_up(body)
        ),
        taxes=read_tax_rates(subscription.taxes),
        end_at=subscription.end_at,
        cancel_at=cancel_at,
        cancel_proration=subscription.cancel_proration,
        billed_until=subscription.billed_until,
    )


def is_used_up(discount: Mapping[str, object]) -> bool:
    """Whether a discount has taken something off as many invoices as it may: one, or `periods` if it repeats."""
    applied = discount.get("applied", 0)
    match discount.get("duration", "forever"):
        case "once":
            limit = 1
        case "repeating":
            limit = discount.get("periods")
        case _:
            return False
    assert isinstance(applied, int)
    assert isinstance(limit, int)
    return applied >= limit


def _cancel_at(subscription: BilledSubscription) -> datetime | None:
    """A trial that is not to go on ends the subscription, if nothing has before."""
    ends = [] if subscription.cancel_at is None else [subscription.cancel_at]
    behavior, is_billed = subscription.trial_end_behavior, subscription.billed_until is not None
    lacks_method = behavior == TrialEnd.CANCEL_WITHOUT_PAYMENT_METHOD and not subscription.has_payment_method
    if subscription.trial_end_at is not None and (behavior == TrialEnd.CANCEL or (lacks_method and not is_billed)):
        ends.append(subscription.trial_end_at)
    return min(ends, default=None)


def _comes_too_late(phase: Phase, stop_at: datetime | None, billed_until: datetime | None) -> bool:
    """Whether the subscription stops before the phase begins, or as it begins; unless that is billed already."""
    if stop_at is None or phase.starts_at < stop_at:
        return False
    return phase.is_late or billed_until is None or phase.starts_at > billed_until


def _read_phase(phase: Phase, currency: str, grids: Grids) -> PhaseTerms:
    plan = _parse_all(msgspec.json.encode(override_prices(phase)), currency)
    lists = [(plan, DEFAULT_QUANTITY)]
    lists.extend(
        (_parse_all(msgspec.json.encode(_overridden(prices, phase.price_overrides)), currency), _count_of(addon))
        for addon, prices in zip(phase.addons, phase.addon_prices, strict=True)
    )
    quantities = {key: read_decimal(text, f"/quantities/{key}") for key, text in phase.quantities.items()}
    agreed: dict[str, Agreed] = {}
    for parsed, count in lists:
        for price in parsed.prices:
            agreed[price.key] = _agree(price, parsed.bodies[price.key], quantities, count, grids)
    commitment = None if phase.commitment is None else read_agreed_commitment(phase.commitment)
    return PhaseTerms(
        starts_at=phase.starts_at,
        prices=tuple(each.price for each in agreed.values()),
        agreed={} if phase.is_paused else agreed,
        grids={key: each.grid for key, each in agreed.items() if each.grid is not None},
        commitment=commitment,
        commitment_grid=_commitment_grid(commitment, grids),
        is_paused=phase.is_paused,
        prorate=phase.prorate,
        invoice_now=phase.invoice_now,
        is_late=phase.is_late,
    )


def _commitment_grid(commitment: AgreedCommitment | None, grids: Grids) -> Grid | None:
    if commitment is None or commitment.billing_period is None:
        return None
    return grids.of(commitment.billing_period, commitment.billing_period_count)


def _count_of(addon: Mapping[str, object]) -> Decimal:
    return read_decimal(addon.get("quantity", "1"), "/addons/quantity")


def _agree(
    price: PlanPrice, body: Mapping[str, object], quantities: Mapping[str, Decimal], count: Decimal, grids: Grids
) -> Agreed:
    """A price with its quantity. An add-on that is there `count` times has its fixed prices as many times; its usage is
    priced once, whatever the count."""
    grid = grids.of(price.billing_period, price.billing_period_count)
    if is_usage(price):
        return Agreed(price=price, body=body, quantity=None, grid=grid)
    if count != 1:
        price = _each(price)
        body = serialize(price)
    return Agreed(price=price, body=body, quantity=quantities.get(price.key, DEFAULT_QUANTITY) * count, grid=grid)


def _each(price: PlanPrice) -> PlanPrice:
    """A flat price of one add-on as a price of each of several."""

    def each(own: Price) -> Price:
        return replace(own, model=PerUnit(unit_amount=own.model.amount)) if isinstance(own.model, Flat) else own

    changes = tuple(replace(change, price=each(change.price)) for change in price.changes)
    return replace(price, price=each(price.price), changes=changes)


def override_prices(phase: Phase) -> Sequence[Mapping[str, object]]:
    """The prices of a phase's plan, those that are overridden amended. Raises Reject for a key that no price has."""
    known = {price.get("key") for prices in (phase.prices, *phase.addon_prices) for price in prices}
    for key in phase.price_overrides:
        if key not in known:
            raise Reject.at(f"/price_overrides/{key}", "subscription.unknown_price", f"the plan has no price {key!r}")
    return _overridden(phase.prices, phase.price_overrides)


def _overridden(
    prices: Sequence[Mapping[str, object]], overrides: Mapping[str, Mapping[str, object]]
) -> Sequence[Mapping[str, object]]:
    if not overrides:
        return prices
    return [
        amended(price, overrides[key]) if (key := str(price.get("key"))) in overrides else price for price in prices
    ]


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A list of prices, read, and written out again with every default."""

    prices: tuple[PlanPrice, ...]
    bodies: Mapping[str, Mapping[str, object]]


@lru_cache(maxsize=KNOWN_PRICE_LISTS)
def _parse_all(encoded: bytes, currency: str) -> _Parsed:
    bodies = cast("list[object]", msgspec.json.decode(encoded))
    prices = tuple(parse_plan_price(body, f"/prices/{index}", currency=currency) for index, body in enumerate(bodies))
    return _Parsed(prices, {price.key: serialize(price) for price in prices})


def body_of(price: PlanPrice, body: Mapping[str, object]) -> Mapping[str, object]:
    """The body of a price, or of what it is at some instant."""
    return serialize(price) if CHANGES in body and not price.changes else body


def is_usage(price: PlanPrice) -> bool:
    return price.price.type is PriceType.USAGE
