"""What things cost: prices, shares of a period, an invoice's totals. Plain decimals, rounded where the rules say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any

from tests.billing_oracle.periods import Grid, Span

PLACES = {"USD": 2, "JPY": 0, "KWD": 3}
WIDE = Context(prec=200)
ZERO = Decimal(0)
MICROSECOND = timedelta(microseconds=1)

Body = Mapping[str, Any]


def rounded(value: Decimal | Fraction, currency: str) -> Decimal:
    """Half away from zero, to the currency's last place."""
    scaled = abs(Fraction(value)) * 10 ** PLACES[currency]
    units = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return Decimal(units if value >= 0 else -units).scaleb(-PLACES[currency])


def cost(body: Body, quantity: Decimal) -> Decimal:
    """What a quantity costs by a price, not rounded; no more than its maximum, no less than its minimum."""
    found = _cost(body, quantity)
    if found < 0:
        return found
    if "maximum_amount" in body:
        found = min(found, Decimal(body["maximum_amount"]))
    if "minimum_amount" in body:
        found = max(found, Decimal(body["minimum_amount"]))
    return found


def _cost(body: Body, quantity: Decimal) -> Decimal:
    """By the model. A negative quantity gives back what it costs, but no flat amounts."""
    if body["model"] == "flat":
        return Decimal(body["amount"])
    sign, size = (-1 if quantity < 0 else 1), abs(quantity)
    if "included_quantity" in body and sign > 0:
        size = max(size - Decimal(body["included_quantity"]), ZERO)
    match body["model"]:
        case "per_unit":
            return sign * WIDE.multiply(size, Decimal(body["unit_amount"]))
        case "package":
            packages = WIDE.divide(size, Decimal(body["package_size"])).to_integral_value(ROUND_CEILING)
            return sign * packages * Decimal(body["package_amount"])
        case "graduated":
            return sign * _graduated(body["tiers"], size, with_flats=sign > 0)
        case "volume":
            tier = next(tier for tier in body["tiers"] if tier["up_to"] is None or size <= Decimal(tier["up_to"]))
            flat = Decimal(tier.get("flat_amount", "0")) if sign > 0 else ZERO
            return sign * (size * Decimal(tier["unit_amount"]) + flat)
        case model:
            raise AssertionError(model)


def _graduated(tiers: Sequence[Body], size: Decimal, *, with_flats: bool) -> Decimal:
    total, lower = ZERO, ZERO
    for tier in tiers:
        if size <= lower and lower:
            break
        upper = size if tier["up_to"] is None else min(size, Decimal(tier["up_to"]))
        total += (upper - lower) * Decimal(tier["unit_amount"])
        total += Decimal(tier.get("flat_amount", "0")) if with_flats else ZERO
        lower = upper if tier["up_to"] is None else Decimal(tier["up_to"])
    return total


def part(whole: Decimal, period: Span, span: Span, currency: str) -> Decimal:
    """What a part of a period costs, so that parts always add up to the whole."""

    def until(instant: datetime) -> Decimal:
        passed = Fraction((instant - period[0]) // MICROSECOND, (period[1] - period[0]) // MICROSECOND)
        return rounded(Fraction(whole) * passed, currency)

    return until(span[1]) - until(span[0])


@dataclass
class Discount:
    """`limit`: on how many invoices it may take something; None: on all."""

    percent: Decimal | None
    amount: Decimal | None
    limit: int | None
    applied: int = 0


@dataclass(frozen=True)
class Tax:
    percent: Decimal
    is_inclusive: bool


@dataclass(frozen=True)
class Totals:
    subtotal: Decimal
    discount: Decimal
    tax: Decimal
    total: Decimal


def totals(amounts: Sequence[Decimal], discounts: Sequence[Discount], taxes: Sequence[Tax], currency: str) -> Totals:
    """Add up an invoice. A discount that takes something counts it."""
    subtotal = sum(amounts, ZERO)
    left = subtotal
    for discount in discounts:
        if left <= 0 or (discount.limit is not None and discount.applied >= discount.limit):
            continue
        wanted = discount.amount if discount.percent is None else rounded(left * discount.percent / 100, currency)
        assert wanted is not None
        taken = min(wanted, left)
        left -= taken
        discount.applied += taken > 0
    inclusive = [tax.percent for tax in taxes if tax.is_inclusive]
    whole = Decimal(100) + sum(inclusive, ZERO)
    contained = sum((rounded(Fraction(left * percent) / Fraction(whole), currency) for percent in inclusive), ZERO)
    added = sum(
        (rounded((left - contained) * tax.percent / 100, currency) for tax in taxes if not tax.is_inclusive), ZERO
    )
    return Totals(subtotal, subtotal - left, contained + added, left + added)


@dataclass(frozen=True)
class Commitment:
    """`period` None: of the usage of every statement by itself."""

    amount: Decimal
    overage_factor: Decimal = Decimal(1)
    true_up: bool = False
    period: str | None = None


def committed(commitment: Commitment, usage: Decimal) -> Decimal:
    """What usage costs that a commitment is held against. Below zero it is left alone."""
    if usage < 0:
        return usage
    if usage < commitment.amount:
        return commitment.amount if commitment.true_up else usage
    return commitment.amount + (usage - commitment.amount) * commitment.overage_factor


@dataclass
class Grant:
    """`refills`: it is filled up to `amount` again at the starts of these periods. Compared by identity."""

    priority: int
    expires_at: datetime | None
    effective_at: datetime
    balance: Decimal
    refills: Grid | None = None

    def __post_init__(self) -> None:
        self.amount = self.balance
        self.filled_at = self.effective_at

    def is_alive(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now

    def refill(self, now: datetime) -> None:
        if self.refills is not None and self.refills.containing(now)[0] > self.filled_at:
            self.balance, self.filled_at = self.amount, now


Paid = list[tuple[Grant, Decimal]]


class Wallet:
    """Grants, burned by priority, then the one that ends first (none last), then the one that began first."""

    def __init__(self) -> None:
        self._grants: list[Grant] = []

    def add(self, grant: Grant) -> None:
        self._grants.append(grant)

    def balance(self, now: datetime) -> Decimal:
        return sum((grant.balance for grant in self._alive(now)), ZERO)

    def pay(self, amount: Decimal, now: datetime) -> Paid:
        """Take as much of the amount as there is; from which grants how much."""
        paid: Paid = []
        for grant in self._alive(now):
            taken = min(grant.balance, amount)
            if taken:
                grant.balance -= taken
                amount -= taken
                paid.append((grant, taken))
        return paid

    def give_back(self, paid: Paid, now: datetime) -> None:
        """What came from a grant that is over is gone, and so is what no longer fits in."""
        for grant, taken in paid:
            if grant.is_alive(now):
                grant.refill(now)
                grant.balance = min(grant.amount, grant.balance + taken)

    def _alive(self, now: datetime) -> list[Grant]:
        alive = [grant for grant in self._grants if grant.is_alive(now)]
        for grant in alive:
            grant.refill(now)
        return sorted(
            alive,
            key=lambda grant: (grant.priority, grant.expires_at is None, grant.expires_at or now, grant.effective_at),
        )
