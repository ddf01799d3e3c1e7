"""Random lives of subscriptions, against a reckoning in plain numbers that knows nothing of runs.

The reckoning walks through time in days (every change is at a midnight, every period begins at one), and asks of each
day and price which terms were in force. What is billed for a price is the sum over days.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pricing.billing import price_statement
from pricing.statements import Statement, next_statement, statement_at, statements
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, InvoiceKind
from schemas.instants import Period
from tests.pricing.subscribed import BASE, SUPPORT, USAGE, YEARLY, at, subscribe
from tests.pricing.test_timeline import SEATS, none_used, phase

DAY = timedelta(days=1)
LATER_SUPPORT = {"key": "care", "type": "fixed", "model": "flat", "amount": "62", "timing": "arrears"}

FEES = [BASE, SUPPORT, YEARLY, SEATS, USAGE, LATER_SUPPORT]


@dataclass(frozen=True)
class Life:
    """A subscription with all its phases, and the days between which it lives."""

    subscription: BilledSubscription
    stop: datetime


@st.composite
def lives(draw: st.DrawFn, *, prorate: bool | None = None) -> Life:
    start = at("2026-01-01") + draw(st.integers(0, 40)) * DAY
    stop = start + draw(st.integers(20, 300)) * DAY

    def prices() -> list[dict[str, Any]]:
        chosen = draw(st.lists(st.sampled_from(FEES), unique_by=lambda price: price["key"], min_size=1))
        return [
            price | ({"amount": draw(st.sampled_from(["31", "62", "17.77"]))} if price["model"] == "flat" else {})
            for price in chosen
        ]

    subscription = subscribe(
        *prices(),
        start=start,
        billing_anchor=start + draw(st.integers(-20, 20)) * DAY,
        cancel_at=stop,
        cancel_proration=True,
    )
    days = sorted(draw(st.lists(st.integers(1, 290), max_size=5, unique=True)))
    for day in days:
        subscription = subscription.with_phase(
            phase(
                start + day * DAY,
                *prices(),
                quantities={"seats": draw(st.sampled_from(["1", "2", "5"]))},
                is_paused=draw(st.booleans()) and draw(st.booleans()),
                prorate=draw(st.booleans()) if prorate is None else prorate,
                invoice_now=draw(st.booleans()),
            )
        )
    # The quantities of a fee that is not agreed mean nothing.
    return Life(subscription=subscription, stop=stop)


def days_in_force(life: Life, key: str) -> Iterator[tuple[datetime, dict[str, Any], str]]:
    """Each day on which a price is agreed to, with its body and its quantity."""
    subscription = life.subscription
    day = subscription.start_at
    while day < life.stop:
        current = [each for each in subscription.timeline if each.starts_at <= day][-1]
        for price in current.prices:
            if price["key"] == key and not current.is_paused:
                yield day, price, current.quantities.get(key, "1")
        day += DAY


def keys_of(life: Life) -> list[str]:
    return sorted({price["key"] for each in life.subscription.timeline for price in each.prices})


@given(lives(prorate=True))
def test_lines_of_any_life_cover_every_day_of_a_price_once(life: Life) -> None:
    terms = read_terms(life.subscription)
    for key in keys_of(life):
        covered: dict[datetime, int] = {}
        for statement in statements(terms):
            for line in statement.lines:
                day = line.period.start
                while line.price.key == key and day < line.period.end:
                    covered[day] = covered.get(day, 0) + (-1 if line.is_credit else 1)
                    day += DAY
        expected = {day: 1 for day, _, _ in days_in_force(life, key)}
        assert {day: count for day, count in covered.items() if count} == expected


@given(lives(prorate=True))
def test_what_any_life_costs_is_what_its_days_cost(life: Life) -> None:
    """A day of a month costs a share of that month; every line is rounded for itself, so some cents may differ."""
    terms = read_terms(life.subscription)
    total: dict[str, Decimal] = {}
    lines = 0
    for statement in statements(terms):
        for line in price_statement(terms, statement, none_used(statement)).lines:
            total[line.key] = total.get(line.key, Decimal(0)) + line.amount
            lines += 1
    for key in keys_of(life):
        expected = Decimal(0)
        for day, price, quantity in days_in_force(life, key):
            if price["type"] == "fixed":
                unit = Decimal(price["amount"]) if "amount" in price else Decimal(price["unit_amount"]) * int(quantity)
                first, last = whole_period(life.subscription.billing_anchor, price.get("billing_period", "month"), day)
                expected += unit / (last - first).days
        assert abs(total.get(key, Decimal(0)) - expected) <= Decimal("0.01") * lines


def whole_period(anchor: datetime, unit: str, day: datetime) -> tuple[datetime, datetime]:
    """The period of an anchor that a day lies in, by counting months from it."""
    months = 12 if unit == "year" else 1

    def start(n: int) -> datetime:
        month = anchor.month - 1 + n * months
        year, month = anchor.year + month // 12, month % 12 + 1
        last = (datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC) - DAY).day
        return anchor.replace(year=year, month=month, day=min(anchor.day, last))

    n = -3
    while start(n + 1) <= day:
        n += 1
    return start(n), start(n + 1)


@given(lives())
def test_statements_of_any_life_tile_it_and_no_day_is_charged_twice(life: Life) -> None:
    terms = read_terms(life.subscription)
    found = list(statements(terms))
    assert all(later.period == Period(start=earlier.at, end=later.at) for earlier, later in pairwise(found))
    assert found[-1].at == life.stop
    assert len({statement.at for statement in found}) == len(found)
    for key in keys_of(life):
        covered: dict[datetime, int] = {}
        for statement in found:
            for line in statement.lines:
                day = line.period.start
                while line.price.key == key and day < line.period.end:
                    covered[day] = covered.get(day, 0) + (-1 if line.is_credit else 1)
                    day += DAY
        assert set(covered.values()) <= {0, 1}


@given(lives())
def test_changes_that_are_made_when_they_come_make_the_same_statements_as_scheduled_ones(life: Life) -> None:
    """The sweep stands still between statements; each phase is written only just before the first statement that it
    may touch."""
    expected = list(statements(read_terms(life.subscription)))
    phases = life.subscription.timeline
    known = replace(life.subscription, phases=phases[:1], cancel_at=None)
    rest = list(phases[1:])
    found: list[Statement] = []
    while True:
        statement = next_statement(read_terms(known))
        nearest = min((each.starts_at for each in rest), default=life.stop)
        if known.cancel_at is None and (statement is None or min(nearest, life.stop) <= statement.at):
            if rest and nearest < life.stop:
                known = replace(known, phases=(*known.phases, rest.pop(0)))
            else:
                known = replace(known, cancel_at=life.stop)
            continue
        assert statement is not None
        found.append(statement)
        if statement.kind is InvoiceKind.CLOSING:
            break
        known = replace(known, billed_until=statement.at)
    assert found == expected


@given(lives(), st.integers(0, 330))
def test_the_statement_at_any_instant_is_the_one_that_will_be_billed(life: Life, day: int) -> None:
    terms = read_terms(life.subscription)
    instant = life.subscription.start_at + day * DAY
    expected = next((statement for statement in statements(terms) if statement.at >= instant), None)
    assert statement_at(terms, instant) == expected
