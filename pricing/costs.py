"""What each model makes of a quantity (or of transactions, or of groups): rows added to an `Explanation`.

A negative quantity, in every model that depends on it, costs −price(|q|) without flats.
Arithmetic must run under EXACT.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeVar, assert_never

from pricing.explain import ZERO, Explanation
from pricing.matrix import INVALID_MATRIX, Group, Matrix
from pricing.models import (
    ONE,
    Dynamic,
    Flat,
    Graduated,
    GraduatedPercentage,
    Model,
    Package,
    Percentage,
    PerUnit,
    Rounding,
    Stairstep,
    Volume,
)
from pricing.tiers import PERCENT, Tier, ZeroQuantity
from schemas.errors import Reject
from schemas.money import format_decimal


def rate_model(model: Model, quantity: Decimal, explanation: Explanation) -> None:
    """Step 3 for one quantity."""
    match model:
        case Graduated() | GraduatedPercentage():
            rate_graduated(model, quantity, explanation)
        case PerUnit():
            explanation.charge("unit amount", quantity, model.unit_amount)
        case Volume():
            rate_volume(model, quantity, explanation)
        case Package():
            rate_package(model, quantity, explanation)
        case Flat():
            explanation.charge("flat amount", ONE, model.amount)
        case Stairstep():
            rate_stairstep(model, quantity, explanation)
        case Percentage():
            explanation.charge(rate_label(model.rate), quantity, model.rate * PERCENT)
        case Dynamic():
            explanation.charge("metered amount x multiplier", quantity, model.multiplier)
        case Matrix():
            rate_matrix(model, (Group(properties={}, quantity=quantity),), explanation)
        case _:
            assert_never(model)


def rate_package(model: Package, quantity: Decimal, explanation: Explanation) -> None:
    """Whole packages, counted on |q|."""
    packages, rest = divmod(abs(quantity), model.package_size)
    if rest and model.rounding is Rounding.UP:
        packages += 1
    label = f"packages of {format_decimal(model.package_size)}, rounded {model.rounding}"
    explanation.charge(label, -packages if quantity < ZERO else packages, model.package_amount)


def rate_graduated(model: Graduated | GraduatedPercentage, quantity: Decimal, explanation: Explanation) -> None:
    """Each part at its own tier. A flat is due once the tier's lower bound is exceeded, the first one's at 0 too."""
    magnitude = abs(quantity)
    if not magnitude and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    is_negative, charge = quantity < ZERO, explanation.charge
    for tier in model.tiers:
        after, up_to = tier.after, tier.up_to
        reached = magnitude if up_to is None or magnitude <= up_to else up_to
        part = reached - after
        charge(tier.label, -part if is_negative else part, tier.unit_amount)
        if tier.flat_amount and not is_negative:
            charge(tier.flat_label, ONE, tier.flat_amount)
        if reached is magnitude:
            return


def rate_volume(model: Volume, quantity: Decimal, explanation: Explanation) -> None:
    if not quantity and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    tier = landing(model.tiers, abs(quantity))
    explanation.charge(f"all at {tier.label}", quantity, tier.unit_amount)
    if tier.flat_amount and quantity >= ZERO:
        explanation.charge(tier.flat_label, ONE, tier.flat_amount)


def rate_stairstep(model: Stairstep, quantity: Decimal, explanation: Explanation) -> None:
    if not quantity and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    tier = landing(model.tiers, abs(quantity))
    explanation.charge(f"amount of {tier.label}", -ONE if quantity < ZERO else ONE, tier.amount)


TierRecord = TypeVar("TierRecord", bound=Tier)


def landing(tiers: Sequence[TierRecord], magnitude: Decimal) -> TierRecord:
    """The tier that a quantity lands in: bounds are inclusive, the last is open."""
    for tier in tiers:
        if tier.up_to is None or magnitude <= tier.up_to:
            return tier
    raise AssertionError("the last tier is open")


def rate_transactions(model: Percentage, amounts: Sequence[Decimal], explanation: Explanation) -> None:
    """A share of each transaction, less the allowances; whichever allowance ends first ends both.

    The transaction that crosses `free_amount` is charged on its part above. A refund gives back its rate part alone.
    Rows are totals of a kind, so that a million transactions explain themselves in five lines.
    """
    free_amount, free_count = model.free_amount, model.free_transactions
    is_free = bool(free_amount or free_count)
    taken = refunded = charged = ZERO
    free = capped = raised = fixed = 0
    rate = model.rate * PERCENT
    for amount in amounts:
        if amount < ZERO:
            refunded += amount
            continue
        part = amount
        if is_free:
            if free_amount and taken + amount > free_amount:
                is_free, part = False, taken + amount - free_amount
                taken = free_amount
            else:
                free += 1
                taken += amount
                is_free = not (free_count and free == free_count) and not (free_amount and taken == free_amount)
                continue
        cost = part * rate + model.fixed_amount
        if model.transaction_maximum is not None and cost > model.transaction_maximum:
            capped += 1
        elif model.transaction_minimum is not None and cost < model.transaction_minimum:
            raised += 1
        else:
            fixed += 1
            charged += part
    if taken:
        explanation.note("amount of transactions that is free", taken)
    explanation.charge(rate_label(model.rate), charged, rate)
    if model.fixed_amount:
        explanation.charge("fixed_amount of a transaction", Decimal(fixed), model.fixed_amount)
    if capped:
        explanation.charge("transactions at transaction_maximum", Decimal(capped), model.transaction_maximum or ZERO)
    if raised:
        explanation.charge("transactions at transaction_minimum", Decimal(raised), model.transaction_minimum or ZERO)
    if refunded:
        explanation.charge(f"refunds, {rate_label(model.rate)}", refunded, rate)


def rate_label(rate: Decimal) -> str:
    return f"rate of {format_decimal(rate)}%"


def rate_matrix(model: Matrix, groups: Sequence[Group], explanation: Explanation) -> None:
    """Quantities of groups at their cells; groups of one cell are one row. Raises Reject for a group without a cell."""
    totals: dict[int, Decimal] = {}
    rest = ZERO
    for number, group in enumerate(groups):
        cell = model.find(group.properties)
        if cell is not None:
            totals[cell] = totals.get(cell, ZERO) + group.quantity
        elif model.default_unit_amount is not None:
            rest += group.quantity
        else:
            raise Reject.at(f"/groups/{number}", INVALID_MATRIX, "no cell matches and there is no default")
    for cell, quantity in sorted(totals.items()):
        explanation.charge(cell_label(model.cells[cell].match), quantity, model.cells[cell].unit_amount)
    if model.default_unit_amount is not None and (rest or not totals):
        explanation.charge("default_unit_amount", rest, model.default_unit_amount)


def cell_label(match: Mapping[str, str]) -> str:
    return "cell " + (", ".join(f"{name}={value}" for name, value in match.items()) or "of every group")
