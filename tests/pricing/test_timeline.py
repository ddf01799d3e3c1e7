"""Statements of subscriptions that change, one kind of change after another; see `test_lives` for any life."""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest

from pricing.billing import price_statement
from pricing.statements import Statement, bill_of, next_statement, statements
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, MeteredUsage, Phase
from schemas.instants import Period
from tests.pricing.subscribed import BASE, SETUP, SUPPORT, USAGE, YEARLY, at, subscribe

SEATS = {"key": "seats", "type": "fixed", "model": "per_unit", "unit_amount": "31", "timing": "advance"}


def phase(start: str | datetime, *prices: dict[str, Any], **terms: Any) -> Phase:
    starts_at = at(start) if isinstance(start, str) else start
    return Phase(no=0, starts_at=starts_at, plan_id="pln_2", plan_version=1, prices=list(prices), **terms)


def changed(subscription: BilledSubscription, *phases: Phase) -> BilledSubscription:
    for each in phases:
        subscription = subscription.with_phase(each)
    return subscription


def none_used(statement: Statement) -> dict[str, MeteredUsage]:
    return {
        line.name: MeteredUsage(meter_no=1, quantity=Decimal(0), groups=()) for line in statement.lines if line.is_usage
    }


def billed(subscription: BilledSubscription, count: int = 6) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Statements as (day, [(key, from, to, amount)])."""
    terms = read_terms(subscription)
    found: list[tuple[str, list[tuple[str, str, str, str]]]] = []
    for statement in islice(statements(terms), count):
        invoice = price_statement(terms, statement, none_used(statement))
        lines = [(line.key, _day(line.period.start), _day(line.period.end), str(line.amount)) for line in invoice.lines]
        found.append((_day(statement.at), lines))
    return found


def _day(instant: datetime) -> str:
    return instant.strftime("%m-%d")


def test_a_prorated_upgrade_credits_the_rest_of_the_old_fee_and_charges_that_of_the_new() -> None:
    subscription = changed(
        subscribe(BASE, USAGE, start=at("2026-01-01")), phase("2026-01-11", BASE | {"amount": "62"}, USAGE)
    )
    assert billed(subscription, 3) == [
        ("01-01", [("base", "01-01", "02-01", "31.00")]),
        (
            "02-01",
            [
                ("base", "01-11", "02-01", "-21.00"),
                ("base", "01-11", "02-01", "42.00"),
                ("base", "02-01", "03-01", "62.00"),
                ("tokens", "01-01", "02-01", "0.00"),
            ],
        ),
        ("03-01", [("base", "03-01", "04-01", "62.00"), ("tokens", "02-01", "03-01", "0.00")]),
    ]


def test_a_change_that_is_invoiced_now_makes_a_statement_of_its_own() -> None:
    subscription = changed(
        subscribe(SEATS, start=at("2026-01-01")),
        phase("2026-01-11", SEATS, quantities={"seats": "3"}, invoice_now=True),
    )
    assert billed(subscription, 3)[1:] == [
        ("01-11", [("seats", "01-11", "02-01", "-21.00"), ("seats", "01-11", "02-01", "63.00")]),
        ("02-01", [("seats", "02-01", "03-01", "93.00")]),
    ]


def test_without_proration_the_old_fee_runs_on_to_the_end_of_its_period() -> None:
    subscription = changed(
        subscribe(BASE, YEARLY, start=at("2026-01-01")),
        phase("2026-01-11", BASE | {"amount": "62"}, SUPPORT, prorate=False),
    )
    assert billed(subscription, 3) == [
        ("01-01", [("base", "01-01", "02-01", "31.00"), ("licence", "01-01", "01-01", "365.00")]),
        ("02-01", [("base", "02-01", "03-01", "62.00")]),
        ("03-01", [("base", "03-01", "04-01", "62.00"), ("support", "02-01", "03-01", "31.00")]),
    ]


def test_usage_is_cut_where_its_price_changes_and_each_part_has_its_own_line() -> None:
    dearer = USAGE | {"unit_amount": "0.02"}
    subscription = changed(subscribe(USAGE, start=at("2026-01-01")), phase("2026-01-11", dearer, prorate=False))
    terms = read_terms(subscription)
    second = list(islice(statements(terms), 2))[1]
    assert [(line.name, _day(line.period.start)) for line in second.lines] == [
        ("tokens", "01-01"),
        ("tokens/2", "01-11"),
    ]
    usage = {name: MeteredUsage(meter_no=1, quantity=Decimal(100), groups=()) for name in ("tokens", "tokens/2")}
    assert [line.amount for line in price_statement(terms, second, usage).lines] == [Decimal(1), Decimal(2)]


def test_nothing_is_charged_in_a_pause_and_the_anchor_stays() -> None:
    subscription = changed(
        subscribe(BASE, USAGE, start=at("2026-01-01")),
        phase("2026-01-11", BASE, USAGE, is_paused=True),
        phase("2026-03-22", BASE, USAGE),
    )
    assert billed(subscription, 4) == [
        ("01-01", [("base", "01-01", "02-01", "31.00")]),
        ("02-01", [("base", "01-11", "02-01", "-21.00"), ("tokens", "01-01", "01-11", "0.00")]),
        (
            "04-01",
            [
                ("base", "03-22", "04-01", "10.00"),
                ("base", "04-01", "05-01", "31.00"),
                ("tokens", "03-22", "04-01", "0.00"),
            ],
        ),
        ("05-01", [("base", "05-01", "06-01", "31.00"), ("tokens", "04-01", "05-01", "0.00")]),
    ]


def test_a_pause_that_is_over_before_the_period_ends_changes_nothing_without_proration() -> None:
    plain = subscribe(BASE, start=at("2026-01-01"))
    paused = changed(
        plain, phase("2026-01-11", BASE, is_paused=True, prorate=False), phase("2026-01-21", BASE, prorate=False)
    )
    assert billed(paused) == billed(plain)


def test_a_change_at_an_instant_that_is_billed_already_is_settled_on_the_next_statement() -> None:
    subscription = subscribe(BASE, USAGE, start=at("2026-01-01"))
    subscription = replace(subscription, billed_until=at("2026-02-01"))
    late = changed(subscription, phase("2026-02-01", BASE | {"amount": "62"}, USAGE, invoice_now=True))
    found = list(islice(statements(read_terms(late)), 2))
    terms = read_terms(late)
    lines = [[line.amount for line in price_statement(terms, each, none_used(each)).lines] for each in found]
    assert found[0].at == at("2026-02-01") + datetime.resolution
    assert lines == [
        [Decimal("-31.00"), Decimal("62.00")],
        [Decimal("62.00"), Decimal("0.00")],
    ]
    assert [each.lines[-1].period.start for each in found][1] == at("2026-02-01")


def test_nothing_before_the_end_of_a_trial_is_billed_and_the_anchor_moves_to_it() -> None:
    subscription = subscribe(BASE, USAGE, start=at("2026-01-01"), trial_end_at=at("2026-01-15"))
    subscription = changed(subscription, phase("2026-01-10", BASE | {"amount": "62"}, USAGE))
    assert billed(subscription, 2) == [
        ("01-15", [("base", "01-15", "02-15", "62.00")]),
        ("02-15", [("base", "02-15", "03-15", "62.00"), ("tokens", "01-15", "02-15", "0.00")]),
    ]


@pytest.mark.parametrize(
    ("behavior", "has_method", "ends"),
    [
        ("activate", False, False),
        ("cancel", True, True),
        ("cancel_without_payment_method", True, False),
        ("cancel_without_payment_method", False, True),
    ],
)
def test_a_trial_ends_as_agreed(behavior: str, has_method: bool, ends: bool) -> None:
    trial = {"trial_end_at": at("2026-01-15"), "trial_end_behavior": behavior, "has_payment_method": has_method}
    statement = next_statement(read_terms(subscribe(BASE, start=at("2026-01-01"), **trial)))
    assert statement is not None
    assert (statement.at, statement.is_closing, statement.is_empty) == (at("2026-01-15"), ends, ends)


def test_a_one_off_addon_is_charged_at_its_phase_and_for_what_is_added_later() -> None:
    def setups(count: int) -> dict[str, Any]:
        addon = {"addon": "setup", "addon_id": "pln_9", "version": 1, "quantity": str(count)}
        return {"addons": [addon], "addon_prices": [[SETUP]]}

    subscription = changed(
        subscribe(BASE, start=at("2026-01-01")),
        phase("2026-01-11", BASE, **setups(1)),
        phase("2026-02-11", BASE, **setups(3)),
        phase("2026-03-11", BASE, **setups(2)),
    )
    found = [[line for line in lines if line[0] == "setup"] for _, lines in billed(subscription, 4)]
    assert found == [[], [("setup", "01-11", "01-11", "5.00")], [("setup", "02-11", "02-11", "10.00")], []]


def test_an_addon_that_is_there_twice_costs_twice() -> None:
    addon = {"addon": "extra", "addon_id": "pln_9", "version": 1, "quantity": "2"}
    subscription = changed(
        subscribe(BASE, start=at("2026-01-01")),
        phase("2026-02-01", BASE, addons=[addon], addon_prices=[[BASE | {"key": "extra"}]]),
    )
    assert billed(subscription, 2)[1][1] == [("base", "02-01", "03-01", "31.00"), ("extra", "02-01", "03-01", "62.00")]


def test_a_commitment_of_a_year_is_held_against_a_year_of_months() -> None:
    commitment = {"amount": "1200", "true_up": True, "billing_period": "year"}
    subscription = subscribe(USAGE, start=at("2026-01-01"), commitment=commitment)
    terms = read_terms(subscription)
    found = list(islice(statements(terms), 14))
    due = [statement for statement in found if statement.commitment is not None]
    assert [statement.at for statement in due] == [at("2027-01-01")]
    assert due[0].commitment is not None
    assert due[0].commitment.period == Period(start=at("2026-01-01"), end=at("2027-01-01"))
    invoice = price_statement(terms, due[0], none_used(due[0]), usage_billed=Decimal("1000.01"))
    assert invoice.lines[-1].amount == Decimal("199.99")


def test_a_discount_takes_part_as_often_as_agreed() -> None:
    discounts = [
        {"percent": "10", "duration": "once", "applied": 1},
        {"percent": "50", "duration": "repeating", "periods": 3, "applied": 2},
        {"amount": "1", "duration": "forever", "applied": 7},
    ]
    subscription = subscribe(BASE, start=at("2026-01-01"), discounts=discounts)
    terms = read_terms(subscription)
    first = next_statement(terms)
    assert first is not None
    assert price_statement(terms, first, {}).total == Decimal("14.50")


def test_what_a_row_says_of_its_next_statement_follows_from_it() -> None:
    statement = next_statement(read_terms(subscribe(USAGE, start=at("2026-01-01"), billed_until=at("2026-01-01"))))
    assert (bill_of(statement).at, bill_of(statement).usage_due) == (at("2026-02-01"), True)
    assert bill_of(None).at is None
