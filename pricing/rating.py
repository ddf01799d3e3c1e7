"""Rating: a price and a quantity to money. Each function adds rows to an `Explanation`; the cost is their sum.

Order: unit conversion, included quantity, the model (these three for each bucket), then on the sum: discount,
maximum, minimum, commitment. Nothing is rounded before the end, where the cost is rounded once.
A negative quantity, in every model that depends on it, costs −price(|q|) without flats.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeVar, assert_never

import msgspec

from pricing.charges import Commitment, Price
from pricing.explain import ZERO, ExplainRow, Explanation
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
from pricing.usage import INVALID_QUANTITY, Usage, convert
from schemas.errors import Reject
from schemas.money import CONTEXT, currency_exponent, exactly, format_decimal, round_half_away


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A cost: `exact` is the sum of the rows of `explain`, `amount` the same rounded once to the currency."""

    exact: Decimal
    amount: Decimal
    explain: tuple[ExplainRow, ...]


@exactly
def quote(
    price: Price,
    *,
    currency: str,
    quantity: Decimal | None = None,
    transactions: Sequence[Decimal] | None = None,
    groups: Sequence[Group] | None = None,
    buckets: Sequence[Decimal] | None = None,
) -> Quote:
    """What the usage costs. One of the four kinds of usage; which ones a model takes is said in `rate_usage`.

    Raises Reject: `pricing.invalid_quantity`, `pricing.invalid_matrix` (a group without a cell); ValueError for a
    currency that is not in ISO 4217.
    """
    usage = Usage(quantity=quantity, transactions=transactions, groups=groups, buckets=buckets)
    explanation = rate(price, usage)
    amount = round_half_away(explanation.total, currency_exponent(currency))
    return Quote(explanation.total, amount, tuple(explanation.rows))


def rate(price: Price, usage: Usage, pointer: str = "") -> Explanation:
    """All steps of a price, unrounded. Arithmetic must run under EXACT; `pointer` is where the usage stands."""
    explanation = Explanation()
    rate_usage(price, usage, explanation, pointer)
    rate_modifiers(price, explanation)
    if not explanation.even:
        explanation.adjust("rounded to 50 significant digits", CONTEXT.plus(explanation.total) - explanation.total)
    return explanation


def rate_usage(price: Price, usage: Usage, explanation: Explanation, pointer: str) -> None:
    """Steps 1 to 3. A bucketed price takes `buckets`; a matrix takes groups; percentages take transactions; a total
    of groups or of transactions of money stands for a quantity; `flat` needs none."""
    model = price.model
    if isinstance(model, Matrix):
        rate_matrix(model, groups_of(price, usage, pointer), explanation, pointer)
        return
    if usage.transactions is not None and isinstance(model, Percentage):
        if price.bucket is not None or price.included_quantity:
            raise Reject.at(
                f"{pointer}/transactions",
                INVALID_QUANTITY,
                "a bucket or an included quantity can't be applied to these",
            )
        amounts = [convert_units(price, amount, explanation) for amount in usage.transactions]
        if price.unit_conversion is not None:
            explanation.merge()
        rate_transactions(model, amounts, explanation)
        return
    quantities = quantities_of(price, usage, pointer)
    if price.bucket is not None:
        explanation.note(f"buckets of one {price.bucket} each, by {price.bucket_aggregation}", Decimal(len(quantities)))
    for quantity in quantities:
        rate_model(model, included(price, convert_units(price, quantity, explanation), explanation), explanation)
    if len(quantities) > 1:
        explanation.merge()


def quantities_of(price: Price, usage: Usage, pointer: str) -> Sequence[Decimal]:
    """The quantities that the model is applied to, one after another."""
    model = price.model
    if isinstance(model, Percentage) and not model.is_rate_alone:
        raise Reject.at(
            f"{pointer}/transactions", INVALID_QUANTITY, "is required: more than a rate needs each transaction"
        )
    if price.bucket is not None:
        if usage.buckets is None:
            raise Reject.at(
                f"{pointer}/buckets", INVALID_QUANTITY, f"is required: the price is for each {price.bucket}"
            )
        return usage.buckets
    if usage.quantity is not None:
        return (usage.quantity,)
    if usage.groups is not None:
        return (sum((group.quantity for group in usage.groups), ZERO),)
    if usage.transactions is not None and isinstance(model, GraduatedPercentage | Dynamic):
        return (sum(usage.transactions, ZERO),)
    if isinstance(model, Flat) and usage.buckets is None and usage.transactions is None:
        return (ONE,)
    for name, value in (("buckets", usage.buckets), ("transactions", usage.transactions)):
        if value is not None:
            raise Reject.at(f"{pointer}/{name}", INVALID_QUANTITY, f"{name} mean nothing to this price")
    raise Reject.at(f"{pointer}/quantity", INVALID_QUANTITY, "is required")


def groups_of(price: Price, usage: Usage, pointer: str) -> Sequence[Group]:
    """The groups of a matrix. A quantity, or each bucket of one, is a group without properties."""
    if usage.groups is not None:
        return usage.groups
    if usage.quantity is not None and price.bucket is None:
        return (Group(properties={}, quantity=usage.quantity),)
    if usage.buckets is not None and price.bucket is not None:
        return [Group(properties={}, quantity=quantity) for quantity in usage.buckets]
    raise Reject.at(f"{pointer}/groups", INVALID_QUANTITY, "is required by a matrix")


def convert_units(price: Price, quantity: Decimal, explanation: Explanation) -> Decimal:
    return quantity if price.unit_conversion is None else convert(quantity, price.unit_conversion, explanation)


def included(price: Price, quantity: Decimal, explanation: Explanation) -> Decimal:
    """What is left of a quantity above the included one. A negative quantity is left alone."""
    if not price.included_quantity or quantity <= 0:
        return quantity
    free = min(quantity, price.included_quantity)
    explanation.charge("included_quantity", free, ZERO)
    return quantity - free


def rate_model(model: Model, quantity: Decimal, explanation: Explanation) -> None:
    """Step 3 for one quantity."""
    match model:
        case Flat():
            explanation.charge("flat amount", ONE, model.amount)
        case PerUnit():
            explanation.charge("unit amount", quantity, model.unit_amount)
        case Package():
            explanation.charge(
                f"packages of {format_decimal(model.package_size)}, rounded {model.rounding}",
                packages(model, quantity),
                model.package_amount,
            )
        case Graduated():
            rate_graduated(model, quantity, explanation)
        case Volume():
            rate_volume(model, quantity, explanation)
        case Stairstep():
            rate_stairstep(model, quantity, explanation)
        case GraduatedPercentage():
            rate_graduated(model, quantity, explanation)
        case Percentage():
            explanation.charge(rate_label(model.rate), quantity, model.rate * PERCENT)
        case Matrix():
            rate_matrix(model, (Group(properties={}, quantity=quantity),), explanation, "")
        case Dynamic():
            explanation.charge("metered amount x multiplier", quantity, model.multiplier)
        case _:
            assert_never(model)


def packages(model: Package, quantity: Decimal) -> Decimal:
    whole, rest = divmod(abs(quantity), model.package_size)
    if rest and model.rounding is Rounding.UP:
        whole += 1
    return -whole if quantity < 0 else whole


def rate_graduated(model: Graduated | GraduatedPercentage, quantity: Decimal, explanation: Explanation) -> None:
    """Each part at its own tier. A flat is due once the tier's lower bound is exceeded, the first one's at 0 too."""
    magnitude = abs(quantity)
    if not magnitude and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    for tier in model.tiers:
        if magnitude <= tier.after and tier.after:
            return
        part = tier.part_of(magnitude)
        explanation.charge(tier.label, -part if quantity < 0 else part, tier.unit_amount)
        if tier.flat_amount and quantity >= 0:
            explanation.charge(f"flat_amount of {tier.label}", ONE, tier.flat_amount)


def rate_volume(model: Volume, quantity: Decimal, explanation: Explanation) -> None:
    if not quantity and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    tier = landing(model.tiers, abs(quantity))
    explanation.charge(f"all at {tier.label}", quantity, tier.unit_amount)
    if tier.flat_amount and quantity >= 0:
        explanation.charge(f"flat_amount of {tier.label}", ONE, tier.flat_amount)


def rate_stairstep(model: Stairstep, quantity: Decimal, explanation: Explanation) -> None:
    if not quantity and model.zero_quantity is ZeroQuantity.FREE:
        explanation.note("zero_quantity: free", ZERO)
        return
    tier = landing(model.tiers, abs(quantity))
    explanation.charge(f"amount of {tier.label}", -ONE if quantity < 0 else ONE, tier.amount)


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
        if amount < 0:
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


def rate_matrix(model: Matrix, groups: Sequence[Group], explanation: Explanation, pointer: str) -> None:
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
            raise Reject.at(f"{pointer}/groups/{number}", INVALID_MATRIX, "no cell matches and there is no default")
    for cell, quantity in sorted(totals.items()):
        explanation.charge(cell_label(model.cells[cell].match), quantity, model.cells[cell].unit_amount)
    if model.default_unit_amount is not None and (rest or not totals):
        explanation.charge("default_unit_amount", rest, model.default_unit_amount)


def cell_label(match: Mapping[str, str]) -> str:
    return "cell " + (", ".join(f"{name}={value}" for name, value in match.items()) or "of every group")


def rate_modifiers(price: Price, explanation: Explanation) -> None:
    """Steps 4 to 6, on the sum. Maximum, minimum and commitment leave a negative cost alone."""
    if price.discount_percent:
        label = f"discount_percent of {format_decimal(price.discount_percent)}"
        explanation.charge(label, explanation.total, -price.discount_percent * PERCENT)
    if price.maximum_amount is not None and explanation.total > price.maximum_amount:
        explanation.adjust("down to maximum_amount", price.maximum_amount - explanation.total)
    if price.minimum_amount is not None and 0 <= explanation.total < price.minimum_amount:
        explanation.adjust("up to minimum_amount", price.minimum_amount - explanation.total)
    if price.commitment is not None and (row := commitment_row(explanation.total, price.commitment)) is not None:
        explanation.add(row)


def commitment_row(cost: Decimal, commitment: Commitment) -> ExplainRow | None:
    """What a commitment adds to a cost: the surcharge on the excess, the true-up, or nothing."""
    amount = commitment.amount
    if cost < 0:
        return None
    if cost < amount:
        if not commitment.true_up:
            return None
        return ExplainRow(f"commitment: true-up to {format_decimal(amount)}", None, None, amount - cost)
    excess, surcharge = cost - amount, commitment.overage_factor - ONE
    if not excess or not surcharge:
        return None
    return ExplainRow(f"commitment: overage above {format_decimal(amount)}", excess, surcharge, excess * surcharge)
