"""Rating: a price and a quantity to money. Each function adds rows to an `Explanation`; the cost is their sum.

Order: unit conversion, included quantity, the model (these three for each bucket), then on the sum: discount,
maximum, minimum, commitment; last, amounts in a custom unit become money. Nothing is rounded before the end, where the
cost is rounded once.
"""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from pricing.charges import Commitment, Price
from pricing.costs import rate_matrix, rate_model, rate_transactions
from pricing.explain import ZERO, ExplainRow, Explanation
from pricing.matrix import Group, Matrix
from pricing.models import ONE, Dynamic, Flat, GraduatedPercentage, Percentage
from pricing.tiers import PERCENT
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


def rate(price: Price, usage: Usage) -> Explanation:
    """All steps of a price, unrounded. Arithmetic must run under EXACT."""
    explanation = Explanation()
    if price.is_bare and usage.quantity is not None:  # most lines: every other step would do nothing
        rate_model(price.model, usage.quantity, explanation)
        return explanation
    rate_usage(price, usage, explanation)
    rate_modifiers(price, explanation)
    if price.custom_unit is not None:
        unit = price.custom_unit
        explanation.convert(f"amounts in {unit.code}, converted", unit.conversion_rate)
    if not explanation.even:
        explanation.adjust("rounded to 50 significant digits", CONTEXT.plus(explanation.total) - explanation.total)
    return explanation


def rate_usage(price: Price, usage: Usage, explanation: Explanation) -> None:
    """Steps 1 to 3. A bucketed price takes `buckets`; a matrix takes groups; percentages take transactions; a total
    of groups or of transactions of money stands for a quantity; `flat` needs none."""
    model = price.model
    if isinstance(model, Matrix):
        rate_matrix(model, groups_of(price, usage), explanation)
        return
    if isinstance(model, Percentage) and usage.transactions is not None:
        rate_transactions(model, amounts_of(price, usage.transactions, explanation), explanation)
        return
    quantities = quantities_of(price, usage)
    if price.bucket is not None:
        explanation.note(f"buckets of one {price.bucket} each, by {price.bucket_aggregation}", Decimal(len(quantities)))
    for quantity in quantities:
        if price.unit_conversion is not None:
            quantity = convert(quantity, price.unit_conversion, explanation)
        if price.included_quantity:
            quantity = not_included(price.included_quantity, quantity, explanation)
        rate_model(model, quantity, explanation)
    if len(quantities) > 1:
        explanation.merge()


def amounts_of(price: Price, transactions: Sequence[Decimal], explanation: Explanation) -> Sequence[Decimal]:
    """Transactions in priced units."""
    if price.bucket is not None or price.included_quantity:
        detail = "neither a bucket nor an included quantity can be applied to single transactions"
        raise Reject.at("/transactions", INVALID_QUANTITY, detail)
    if price.unit_conversion is None:
        return transactions
    amounts = [convert(amount, price.unit_conversion, explanation) for amount in transactions]
    explanation.merge()
    return amounts


def quantities_of(price: Price, usage: Usage) -> Sequence[Decimal]:
    """The quantities that the model is applied to, one after another."""
    model = price.model
    if isinstance(model, Percentage) and not model.is_rate_alone:
        detail = "is required: more than a rate is set, which needs each transaction"
        raise Reject.at("/transactions", INVALID_QUANTITY, detail)
    if price.bucket is not None:
        if usage.buckets is None:
            raise Reject.at("/buckets", INVALID_QUANTITY, f"is required: every {price.bucket} is priced alone")
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
            raise Reject.at(f"/{name}", INVALID_QUANTITY, f"{name} mean nothing to this price")
    raise Reject.at("/quantity", INVALID_QUANTITY, "is required")


def groups_of(price: Price, usage: Usage) -> Sequence[Group]:
    """The groups of a matrix. A quantity, or each bucket of one, is a group without properties."""
    if usage.groups is not None:
        return usage.groups
    if usage.quantity is not None and price.bucket is None:
        return (Group(properties={}, quantity=usage.quantity),)
    if usage.buckets is not None and price.bucket is not None:
        return [Group(properties={}, quantity=quantity) for quantity in usage.buckets]
    raise Reject.at("/groups", INVALID_QUANTITY, "is required by a matrix")


def not_included(included: Decimal, quantity: Decimal, explanation: Explanation) -> Decimal:
    """What is left of a quantity above the included one. A negative quantity is left alone."""
    if quantity <= ZERO:
        return quantity
    free = min(quantity, included)
    explanation.charge("included_quantity", free, ZERO)
    return quantity - free


def rate_modifiers(price: Price, explanation: Explanation) -> None:
    """Steps 4 to 6, on the sum. Maximum, minimum and commitment leave a negative cost alone."""
    if price.discount_percent:
        label = f"discount_percent of {format_decimal(price.discount_percent)}"
        explanation.charge(label, explanation.total, -price.discount_percent * PERCENT)
    if price.maximum_amount is not None and explanation.total > price.maximum_amount:
        explanation.adjust("down to maximum_amount", price.maximum_amount - explanation.total)
    if price.minimum_amount is not None and ZERO <= explanation.total < price.minimum_amount:
        explanation.adjust("up to minimum_amount", price.minimum_amount - explanation.total)
    if price.commitment is not None and (row := commitment_row(explanation.total, price.commitment)) is not None:
        explanation.add(row)


def commitment_row(cost: Decimal, commitment: Commitment) -> ExplainRow | None:
    """What a commitment adds to a cost: the surcharge on the excess, the true-up, or nothing."""
    amount = commitment.amount
    if cost < ZERO:
        return None
    if cost < amount:
        if not commitment.true_up:
            return None
        return ExplainRow(f"commitment: true-up to {format_decimal(amount)}", None, None, amount - cost)
    excess, surcharge = cost - amount, commitment.overage_factor - ONE
    if not excess or not surcharge:
        return None
    return ExplainRow(f"commitment: overage above {format_decimal(amount)}", excess, surcharge, excess * surcharge)
