"""Lines of invoices as charges of FOCUS 1.2, the FinOps Open Cost and Usage Specification.

What its columns must hold and when they must be null is the specification's; which charge is of which category is
decided here. A cost before the invoice's discounts is a price times a quantity, exactly, and the billed cost is what
the line adds to the invoice's total before taxes that come on top.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pricing.explain import ZERO
from pricing.list_prices import list_cost
from schemas.billing import InvoiceKind
from schemas.instants import Period
from schemas.money import EXACT, MAX_SCALE, exactly, round_half_away, round_ratio

ONE = Decimal(1)
#: Of what has no price a unit: the charge as a whole is the unit.
CHARGE_UNIT = "Charges"
FIXED_UNIT = "Units"
HOUR = timedelta(hours=1)


class Category(StrEnum):
    """Allowed values of ChargeCategory."""

    USAGE = "Usage"
    PURCHASE = "Purchase"
    TAX = "Tax"
    CREDIT = "Credit"
    ADJUSTMENT = "Adjustment"


class Frequency(StrEnum):
    """Allowed values of ChargeFrequency."""

    ONE_TIME = "One-Time"
    RECURRING = "Recurring"
    USAGE_BASED = "Usage-Based"


class PricingCategory(StrEnum):
    """Those of the allowed values of PricingCategory that we have."""

    STANDARD = "Standard"
    DYNAMIC = "Dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class FocusLine:
    """A line of a final invoice. `billed`: its amount less its share of the invoice's discounts; `exact` is not rounded
    and before these. `meter` is the key of the meter that measured it; `catalogue` the price that the plan has where
    the subscription has another."""

    invoice_kind: str
    invoice_period: Period
    period: Period
    currency: str
    price: Mapping[str, Any]
    catalogue: Mapping[str, Any] | None = None
    meter: str | None
    quantity: Decimal | None
    unit_amount: Decimal | None
    exact: Decimal
    billed: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What FOCUS says of one charge. `cost` and `unit_price` are the contracted ones."""

    category: Category
    frequency: Frequency
    is_correction: bool
    billed: Decimal
    effective: Decimal
    cost: Decimal
    list_cost: Decimal
    unit_price: Decimal | None = None
    list_unit_price: Decimal | None = None
    pricing_category: PricingCategory | None = None
    pricing_quantity: Decimal | None = None
    pricing_unit: str | None = None
    consumed_quantity: Decimal | None = None
    consumed_unit: str | None = None

    @property
    def is_priced(self) -> bool:
        """Whether it is of something that is sold, which FOCUS wants named and priced."""
        return self.category in (Category.USAGE, Category.PURCHASE)


@exactly
def charge_of(line: FocusLine) -> Charge:
    """The charge that a line is."""
    category, frequency = _classify(line)
    charge = Charge(
        category=category,
        frequency=frequency,
        is_correction=_corrects(line, category),
        billed=line.billed,
        # What is paid ahead is no cost yet: the usage that it pays for is.
        effective=ZERO if line.invoice_kind == InvoiceKind.TOP_UP else line.billed,
        cost=line.billed,
        list_cost=line.billed,
    )
    if not charge.is_priced:
        return charge
    quantity, unit_price, list_unit_price, is_whole = _price(line)
    measured = line.meter if category is Category.USAGE else None
    return replace(
        charge,
        cost=quantity * unit_price,
        list_cost=quantity * list_unit_price,
        unit_price=unit_price,
        list_unit_price=list_unit_price,
        # What is passed through has the price that its event says; all others are agreed before.
        pricing_category=PricingCategory.DYNAMIC if line.price.get("model") == "dynamic" else PricingCategory.STANDARD,
        pricing_quantity=quantity,
        pricing_unit=CHARGE_UNIT if is_whole else measured or FIXED_UNIT,
        consumed_quantity=None if measured is None else line.quantity or ZERO,
        consumed_unit=measured,
    )


def _classify(line: FocusLine) -> tuple[Category, Frequency]:
    if line.meter is not None:
        return Category.USAGE, Frequency.USAGE_BASED
    if line.invoice_kind == InvoiceKind.ONE_OFF:
        return (Category.CREDIT if line.exact < 0 else Category.PURCHASE), Frequency.ONE_TIME
    if line.invoice_kind == InvoiceKind.TOP_UP or line.price.get("billing_period") == "once":
        return Category.PURCHASE, Frequency.ONE_TIME
    if "commitment" in line.price:  # what was missing to a minimum was neither used nor bought
        return Category.ADJUSTMENT, Frequency.RECURRING
    return Category.PURCHASE, Frequency.RECURRING


def _corrects(line: FocusLine, category: Category) -> bool:
    """Usage of a period that an earlier invoice had billed."""
    return category is Category.USAGE and (
        line.invoice_kind == InvoiceKind.ADJUSTMENT or line.period.end <= line.invoice_period.start
    )


def _price(line: FocusLine) -> tuple[Decimal, Decimal, Decimal, bool]:
    """A quantity and two unit prices of at least 0, the contracted and the list one, whose products with it are the
    exact costs, and whether the quantity counts whole charges: those of tiers, packages and minimums, and of shares of
    a fee, have no price a unit."""
    exact, quantity, unit_amount = line.exact, line.quantity, line.unit_amount
    listed = _list_cost(line)
    if quantity is not None and unit_amount is not None and unit_amount >= 0 and quantity * unit_amount == exact:
        list_amount = round_ratio(listed, quantity, MAX_SCALE) if quantity else unit_amount
        fits = all(_scale(number) <= MAX_SCALE for number in (quantity, unit_amount, exact, listed))
        if fits and list_amount >= 0 and quantity * list_amount == listed:
            return quantity, unit_amount, list_amount, False
    cost, list_cost = round_half_away(exact, MAX_SCALE), round_half_away(listed, MAX_SCALE)
    is_negative = cost < 0 or (not cost and list_cost < 0)
    if cost * list_cost < 0:  # no one quantity has both
        list_cost = cost
    return (-ONE if is_negative else ONE), abs(cost), abs(list_cost), True


def _list_cost(line: FocusLine) -> Decimal:
    if line.catalogue is None:
        return line.exact
    return list_cost(
        exact=line.exact,
        quantity=line.quantity,
        agreed=line.price,
        catalogue=line.catalogue,
        currency=line.currency,
        at=line.period.start,
    )


def _scale(number: Decimal) -> int:
    exponent = number.normalize(EXACT).as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent


@exactly
def tax_cost(amount: Decimal, subtotal: Decimal, discount: Decimal, percent: Decimal, scale: int) -> Decimal:
    """What an added tax had come to without the invoice's discounts, from what it did come to."""
    net = subtotal - discount
    if not net:  # nothing was left to be taxed
        return round_half_away(amount + percent * discount / 100, scale)
    return round_ratio(amount * subtotal, net, scale)


def charge_period(period: Period) -> Period:
    """A period that FOCUS takes: whole seconds, and never empty. What happened at an instant has its hour."""
    start, end = period.start.replace(microsecond=0), period.end.replace(microsecond=0)
    if start < end:
        return Period(start=start, end=end)
    hour = start.replace(minute=0, second=0)
    return Period(start=hour, end=hour + HOUR)


def billing_period(invoice: Period, charges: list[Period]) -> Period:
    """The invoice's period; one of an instant spans what it charges for."""
    own = charge_period(invoice)
    if invoice.start < invoice.end or not charges:
        return own
    return Period(start=min(each.start for each in charges), end=max(each.end for each in charges))


def hour_of(instant: datetime) -> Period:
    """The hour, of UTC, that holds an instant."""
    return charge_period(Period(start=instant, end=instant))
