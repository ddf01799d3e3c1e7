"""Simulation: what a customer would have paid under a plan, by the very functions that make invoices.

The rule: as if the customer had subscribed to the plan at the start and the subscription had ended at the end. So
periods are counted from the start, in the customer's timezone, and the last one is cut at the end. Compared are sums
after discounts, before taxes and credits; an issued line counts when the period that it is for begins in the range.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice

from pricing.billing import price_statement, usage_needs
from pricing.discounts import spread
from pricing.explain import ZERO
from pricing.statements import Statement, statements
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.money import exactly

MAX_STATEMENTS = 4_000  # of one customer: ten years by the day


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A plan over a range: what all customers with the same timezone and quantities share."""

    subscription: BilledSubscription
    terms: Terms
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedLine:
    """One price over the whole range: how much of it was billed, and what for."""

    key: str
    quantity: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a customer would have paid. `lines` stand in the plan's order and add up to `amount`."""

    amount: Decimal
    lines: tuple[SimulatedLine, ...]


def make_scenario(subscription: BilledSubscription) -> Scenario:
    """The statements of a subscription from its start to its end, which it must have.

    Raises Reject: `pricing.simulation_too_long`, `pricing.*` for a price that can't be read.
    """
    assert subscription.end_at is not None, "a simulation ends"
    terms = read_terms(subscription)
    found = tuple(islice(statements(terms), MAX_STATEMENTS + 1))
    if len(found) > MAX_STATEMENTS:
        raise Reject.at(
            "/to", "pricing.simulation_too_long", f"The range has more than {MAX_STATEMENTS} invoices a customer."
        )
    return Scenario(subscription=subscription, terms=terms, statements=found)


def scenario_needs(
    scenario: Scenario, meters: Mapping[tuple[str, str], MeterEntry], *, customer_id: str, customer_no: int
) -> list[UsageNeed]:
    """What must be measured for one customer, each need under the name of its statement."""
    subscription = replace(scenario.subscription, customer_no=customer_no)
    return [
        replace(need, subscription_id=name)
        for name, statement in _named(scenario, customer_id)
        for need in usage_needs(subscription, statement, meters)
    ]


@exactly
def simulate(scenario: Scenario, usage: Mapping[str, Mapping[str, MeteredUsage]], *, customer_id: str) -> Simulated:
    """The invoices of one customer, added up. `usage`: by the name of the statement and the key of the price.

    Raises Reject when the usage can't be priced: a group that no cell matches, an amount too large.
    """
    amount = ZERO
    lines = {price.key: SimulatedLine(key=price.key, quantity=ZERO, amount=ZERO) for price in scenario.terms.prices}
    for name, statement in _named(scenario, customer_id):
        invoice = price_statement(scenario.terms, statement, usage.get(name, {}))
        amount += invoice.subtotal - invoice.discount
        for line in invoice.lines:
            known = lines[line.key]
            lines[line.key] = SimulatedLine(
                key=line.key, quantity=known.quantity + (line.quantity or ZERO), amount=known.amount + line.amount
            )
    return Simulated(amount=amount, lines=tuple(lines.values()))


def _named(scenario: Scenario, customer_id: str) -> Iterator[tuple[str, Statement]]:
    for number, statement in enumerate(scenario.statements):
        yield f"{customer_id}/{number}", statement


@exactly
def invoiced_within(amounts: Sequence[Decimal], is_within: Sequence[bool], discount: Decimal, scale: int) -> Decimal:
    """What those lines of an issued invoice that are within the range came to, less their parts of its discounts.

    `amounts` in currency units with `scale` digits, `discount` positive.
    """
    parts = spread(discount, amounts, scale) if discount else [ZERO] * len(amounts)
    return sum((amount - part for amount, part, within in zip(amounts, parts, is_within, strict=True) if within), ZERO)
