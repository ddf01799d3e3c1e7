"""A subscription's terms: its plan's prices with overrides and quantities, read once, and the grid of each price.

Every price has its own periods, all counted from the same anchor, so that a yearly fee and monthly usage meet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import cast

import msgspec

from pricing.changes import CHANGES, amended
from pricing.charges import Commitment, PlanPrice, PriceType, parse_plan_price, read_commitment, serialize
from pricing.fields import Fields, read_decimal
from pricing.invoice_taxes import TaxRate, read_tax_rates
from pricing.periods import Alignment, BillingPeriod, Schedule, add_units, resolve, schedule
from schemas.billing import BilledSubscription
from schemas.errors import Reject
from schemas.instants import Period

DEFAULT_QUANTITY = Decimal(1)  # of a fixed price for which the subscription names none
KNOWN_PRICE_LISTS = 1_024  # parsed plans kept in memory; a plan's version never changes


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The periods of one price, whole ones: a first period cut short is still part of a whole one.

    Found periods are kept: the prices of a subscription ask for the same few again and again.
    """

    schedule: Schedule
    _found: dict[datetime, Period] = field(default_factory=dict[datetime, Period], repr=False)

    def containing(self, instant: datetime) -> Period:
        """The whole period with start <= instant < end."""
        period = self._found.get(instant)
        if period is None:
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
class Terms:
    """What decides a subscription's statements. `bodies` are the prices as they are stored and shown, `grids` their
    periods, both by key; a price that is billed once has no grid.

    `end_at` is part of the contract from its first day: the last period is cut short by it as the first is by
    `start_at`. `cancel_at` comes later: what was charged in advance stays charged, or is credited when
    `cancel_proration` says so.
    """

    currency: str
    timezone: str
    start_at: datetime
    prices: tuple[PlanPrice, ...]
    bodies: Mapping[str, Mapping[str, object]]
    grids: Mapping[str, Grid]
    quantities: Mapping[str, Decimal]
    discounts: Sequence[Mapping[str, object]] = ()  # of the invoice, one after another
    taxes: tuple[TaxRate, ...] = ()
    commitment: Commitment | None = None
    end_at: datetime | None = None
    cancel_at: datetime | None = None
    cancel_proration: bool = False
    billed_until: datetime | None = None
    stop_at: datetime | None = field(init=False)  # the instant of the closing statement

    def __post_init__(self) -> None:
        stops = [stop for stop in (self.end_at, self.cancel_at) if stop is not None]
        object.__setattr__(self, "stop_at", min(stops, default=None))

    def body(self, price: PlanPrice) -> Mapping[str, object]:
        """The body of one of `prices`, or of what one of them is at some instant."""
        body = self.bodies[price.key]
        return serialize(price) if CHANGES in body and not price.changes else body

    def quantity(self, price: PlanPrice) -> Decimal:
        return self.quantities.get(price.key, DEFAULT_QUANTITY)


def read_terms(subscription: BilledSubscription) -> Terms:
    """The terms of a stored subscription. Raises Reject `pricing.*` when a price or another term can't be read."""
    bodies = override_prices(subscription.prices, subscription.price_overrides)
    parsed = _parse_all(msgspec.json.encode(bodies), subscription.currency)
    prices = parsed.prices
    alignment = Alignment(subscription.alignment)
    # A calendar has its own cuts: the anchor says nothing but where the first, short period begins.
    anchor = subscription.start_at if alignment is Alignment.CALENDAR else subscription.billing_anchor
    return Terms(
        currency=subscription.currency,
        timezone=subscription.timezone,
        start_at=subscription.start_at,
        prices=prices,
        bodies=parsed.bodies,
        grids=make_grids(prices, anchor=anchor, timezone=subscription.timezone, alignment=alignment),
        quantities={key: read_decimal(text, f"/quantities/{key}") for key, text in subscription.quantities.items()},
        discounts=tuple(subscription.discounts),
        taxes=read_tax_rates(subscription.taxes),
        commitment=None if subscription.commitment is None else read_commitment(Fields(subscription.commitment)),
        end_at=subscription.end_at,
        cancel_at=subscription.cancel_at,
        cancel_proration=subscription.cancel_proration,
        billed_until=subscription.billed_until,
    )


def override_prices(
    prices: Sequence[Mapping[str, object]], overrides: Mapping[str, Mapping[str, object]]
) -> Sequence[Mapping[str, object]]:
    """The plan's prices, those that are overridden amended. Raises Reject for an unknown key."""
    if not overrides:
        return prices
    known = {price.get("key") for price in prices}
    for key in overrides:
        if key not in known:
            raise Reject.at(f"/price_overrides/{key}", "subscription.unknown_price", f"the plan has no price {key!r}")
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


def make_grids(
    prices: Sequence[PlanPrice], *, anchor: datetime, timezone: str, alignment: Alignment
) -> dict[str, Grid]:
    """The grid of every price that recurs, by key; prices of the same period share one."""
    shared: dict[tuple[BillingPeriod, int], Grid] = {}
    grids: dict[str, Grid] = {}
    for price in prices:
        if price.billing_period is BillingPeriod.ONCE:
            continue
        unit = (price.billing_period, price.billing_period_count)
        if unit not in shared:
            shared[unit] = Grid(schedule(anchor, timezone, *unit, alignment))
        grids[price.key] = shared[unit]
    return grids


def is_usage(price: PlanPrice) -> bool:
    return price.price.type is PriceType.USAGE
