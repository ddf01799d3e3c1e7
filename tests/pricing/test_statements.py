"""Which statement comes next, when, and with which lines: pure, on calendars that bite."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from pricing.billing import price_statement, usage_needs
from pricing.statements import (
    next_bill,
    next_statement,
    paid_until,
)
from pricing.terms import read_terms
from schemas.billing import GroupQuantity, InvoiceKind, MeteredUsage
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import Period
from schemas.meters import Aggregation
from tests.pricing.subscribed import (
    BASE,
    NEW_YORK,
    SETUP,
    SUPPORT,
    USAGE,
    YEARLY,
    amounts,
    at,
    life,
    lines,
    subscribe,
    terms_of,
    used,
)


def test_the_first_statement_has_advance_lines_alone_and_usage_comes_with_the_next() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"))
    first, second, third = life(terms, 3)
    assert (first.at, lines(first)) == (at("2026-01-01"), {"base": (at("2026-01-01"), at("2026-02-01"))})
    assert lines(second) == {
        "base": (at("2026-02-01"), at("2026-03-01")),
        "tokens": (at("2026-01-01"), at("2026-02-01")),
    }
    assert third.period == Period(start=at("2026-02-01"), end=at("2026-03-01"))


def test_what_does_not_add_up_is_billed_as_a_whole_and_by_group_only_where_cells_price_groups() -> None:
    """The greatest of all is 10, however many groups have one of their own."""
    groups = tuple(
        GroupQuantity(group={"model": model}, quantity=Decimal(quantity)) for model, quantity in (("a", 10), ("b", 7))
    )
    peak = {"tokens": MeteredUsage(meter_no=1, quantity=Decimal(10), groups=groups)}
    cells = [{"match": {"model": "a"}, "unit_amount": "2"}]
    matrix = {"model": "matrix", "dimensions": ["model"], "cells": cells, "default_unit_amount": "1"}
    by_group = {name: value for name, value in USAGE.items() if name != "unit_amount"} | matrix
    billed: list[tuple[Decimal | None, Decimal]] = []
    for price in (USAGE, by_group):
        terms = terms_of(price, start=at("2026-01-01"))
        statement = next(found for found in life(terms) if found.has_usage)
        (line,) = price_statement(terms, statement, peak).lines
        billed.append((line.quantity, line.amount))
    assert billed == [(Decimal(10), Decimal("0.10")), (Decimal(17), Decimal(27))]


def test_an_anchor_on_the_31st_is_clamped_and_never_drifts() -> None:
    terms = terms_of(USAGE, start=at("2026-01-31"))
    assert [statement.at.day for statement in life(terms)] == [31, 28, 31, 30, 31, 30]


def test_local_midnight_is_kept_over_changes_of_clocks() -> None:
    terms = terms_of(USAGE, start=at("2026-03-01", NEW_YORK), timezone=NEW_YORK)
    hours = [statement.at.hour for statement in life(terms, 3)]
    assert hours == [5, 4, 4]
    daily = terms_of(USAGE | {"billing_period": "day"}, start=at("2026-03-07", NEW_YORK), timezone=NEW_YORK)
    lengths = [later.at - earlier.at for earlier, later in pairwise(life(daily, 4))]
    assert lengths == [timedelta(hours=24), timedelta(hours=23), timedelta(hours=24)]


def test_a_yearly_fee_and_monthly_usage_share_an_anchor_and_each_keeps_its_period() -> None:
    terms = terms_of(YEARLY, USAGE, start=at("2026-01-31"))
    cut = life(terms, 13)
    assert lines(cut[0]) == {"licence": (at("2026-01-31"), at("2027-01-31"))}
    assert all(set(lines(statement)) == {"tokens"} for statement in cut[1:12])
    assert set(lines(cut[12])) == {"licence", "tokens"}
    assert lines(cut[12])["licence"] == (at("2027-01-31"), at("2028-01-31"))


def test_calendar_alignment_cuts_the_first_period_short_and_shares_the_fee_out() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-22"), alignment="calendar")
    first, second, *_ = life(terms)
    assert lines(first) == {"base": (at("2026-01-22"), at("2026-02-01"))}
    assert amounts(terms, first) == {"base": Decimal("10.00")}
    assert second.at == at("2026-02-01")
    assert amounts(terms, second, 7) == {"base": Decimal("31.00"), "tokens": Decimal("0.07")}


def test_calendar_alignment_cuts_each_price_by_its_own_unit() -> None:
    terms = terms_of(YEARLY, USAGE, start=at("2026-12-02"), alignment="calendar")
    first, second, _ = life(terms, 3)
    assert amounts(terms, first) == {"licence": Decimal("30.00")}
    assert set(lines(second)) == {"licence", "tokens"}
    assert second.at == at("2027-01-01")


def test_a_first_period_of_several_months_is_shared_out_of_all_of_them() -> None:
    terms = terms_of(BASE | {"billing_period_count": 2}, start=at("2026-03-17"), alignment="calendar")
    first, second, third = life(terms, 3)
    assert [first.at, second.at, third.at] == [at("2026-03-17"), at("2026-04-01"), at("2026-06-01")]
    # 15 of the 59 days from 1 February to 1 April
    assert amounts(terms, first) == {"base": Decimal("7.88")}


@pytest.mark.parametrize(("anchor", "amount"), [("2026-01-15", "5.00"), ("2025-12-15", "5.00")])
def test_a_start_inside_a_period_of_the_anchor_pays_for_the_rest_of_it(anchor: str, amount: str) -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-10"), billing_anchor=at(anchor))
    first, second, *_ = life(terms)
    assert lines(first) == {"base": (at("2026-01-10"), at("2026-01-15"))}
    assert amounts(terms, first) == {"base": Decimal(amount)}
    assert lines(second)["tokens"] == (at("2026-01-10"), at("2026-01-15"))


def test_a_price_that_is_not_prorated_costs_all_of_a_short_period() -> None:
    terms = terms_of(BASE | {"prorate": False}, start=at("2026-01-22"), alignment="calendar")
    assert amounts(terms, life(terms)[0]) == {"base": Decimal("31.00")}


def test_a_price_that_is_billed_once_stands_on_the_first_invoice_alone() -> None:
    terms = terms_of(SETUP, USAGE, start=at("2026-01-01"))
    assert [set(lines(statement)) for statement in life(terms, 3)] == [{"setup"}, {"tokens"}, {"tokens"}]
    alone = terms_of(SETUP, start=at("2026-01-01"))
    assert [set(lines(statement)) for statement in life(alone)] == [{"setup"}]


def test_cancelling_now_bills_usage_so_far_and_keeps_the_fee() -> None:
    terms = terms_of(BASE, USAGE, SUPPORT, start=at("2026-01-01"), cancel_at=at("2026-01-11"))
    first, closing = life(terms)
    assert closing.kind is InvoiceKind.CLOSING
    assert lines(closing) == {
        "tokens": (at("2026-01-01"), at("2026-01-11")),
        "support": (at("2026-01-01"), at("2026-01-11")),
    }
    assert amounts(terms, closing, 5) == {"tokens": Decimal("0.05"), "support": Decimal("10.00")}
    assert amounts(terms, first) == {"base": Decimal("31.00")}


def test_cancelling_with_proration_credits_what_was_not_used() -> None:
    terms = terms_of(BASE, YEARLY, start=at("2026-01-01"), cancel_at=at("2026-01-11"), cancel_proration=True)
    first, closing = life(terms)
    charged, credited = amounts(terms, first), amounts(terms, closing)
    assert credited == {"base": Decimal("-21.00"), "licence": Decimal("-355.00")}
    assert charged["base"] + credited["base"] == Decimal("10.00")


def test_cancelling_at_the_period_end_makes_one_last_invoice_with_usage_only() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"), cancel_at=at("2026-03-01"), cancel_proration=True)
    statements_ = life(terms)
    assert [set(lines(statement)) for statement in statements_] == [{"base"}, {"base", "tokens"}, {"tokens"}]
    assert statements_[-1].at == at("2026-03-01")


def test_cancelling_when_a_fee_has_just_been_charged_credits_all_of_it() -> None:
    terms = terms_of(
        BASE, USAGE, start=at("2026-01-01"), cancel_at=at("2026-02-01"), cancel_proration=True,
        billed_until=at("2026-02-01"),
    )  # fmt: skip
    [closing] = life(terms)
    assert amounts(terms, closing) == {"base": Decimal("-31.00")}


def test_a_cancellation_before_what_is_billed_is_due_at_once_without_usage_twice() -> None:
    terms = terms_of(
        BASE, USAGE, start=at("2026-01-01"), cancel_at=at("2026-01-15"), billed_until=at("2026-02-01")
    )  # fmt: skip
    [closing] = life(terms)
    assert (closing.at, closing.lines) == (at("2026-02-01"), ())


def test_a_cancellation_before_the_start_bills_nothing() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-02-01"), cancel_at=at("2026-01-15"))
    assert [(statement.at, statement.lines) for statement in life(terms)] == [(at("2026-01-15"), ())]


def test_an_agreed_end_shares_the_last_fee_out_and_closes() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"), end_at=at("2026-02-15"))
    cut = life(terms)
    assert [amounts(terms, statement).get("base") for statement in cut] == [Decimal("31.00"), Decimal("15.50"), None]
    assert lines(cut[-1]) == {"tokens": (at("2026-02-01"), at("2026-02-15"))}


def test_what_comes_after_a_statement_says_whether_it_waits_for_usage() -> None:
    terms = terms_of(YEARLY, USAGE | {"billing_period": "quarter"}, start=at("2026-01-01"))
    first = next_statement(terms)
    assert first is not None
    following = next_bill(terms, first)
    assert (following.at, following.usage_due) == (at("2026-04-01"), True)
    closing = next_statement(replace(terms, billed_until=at("2026-01-01"), cancel_at=at("2026-01-05")))
    assert closing is not None


def test_nothing_comes_after_a_closing_statement() -> None:
    terms = terms_of(BASE, start=at("2026-01-01"), end_at=at("2026-01-05"))
    closing = life(terms)[-1]
    assert next_bill(terms, closing).at is None


def test_the_period_that_is_paid_for_is_the_longest() -> None:
    terms = terms_of(BASE, YEARLY, USAGE, start=at("2026-01-31"))
    assert paid_until(terms, at("2026-03-05")) == at("2027-01-31")
    assert paid_until(terms_of(BASE, start=at("2026-01-31")), at("2026-02-28")) == at("2026-03-31")


def test_a_commitment_is_made_up_on_statements_with_usage_alone() -> None:
    commitment = {"amount": "10", "true_up": True}
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"), commitment=commitment)
    first, second, *_ = life(terms)
    assert "commitment" not in amounts(terms, first)
    assert amounts(terms, second, 300)["commitment"] == Decimal("7.00")


def test_a_negative_total_is_never_due() -> None:
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"), cancel_at=at("2026-01-11"), cancel_proration=True)
    invoice = price_statement(terms, life(terms)[-1], used(100))
    assert (invoice.total, invoice.amount_due) == (Decimal("-20.00"), Decimal(0))


def test_an_override_is_a_whole_price_on_the_plans_terms() -> None:
    override = {"model": "package", "package_size": "10", "package_amount": "1"}
    terms = terms_of(BASE, USAGE, start=at("2026-01-01"), price_overrides={"tokens": override})
    assert amounts(terms, life(terms)[1], 11)["tokens"] == Decimal("2.00")
    with pytest.raises(Reject) as caught:
        terms_of(BASE, start=at("2026-01-01"), price_overrides={"none": override})
    assert caught.value.code == "subscription.unknown_price"


def test_each_line_explains_itself_to_its_exact_amount() -> None:
    terms = terms_of(BASE, SUPPORT, USAGE, start=at("2026-01-22"), alignment="calendar")
    for statement in life(terms, 3):
        for line in price_statement(terms, statement, used("12.5")).lines:
            assert sum(Decimal(row["amount"]) for row in line.explain) == line.exact


def test_a_meter_that_is_not_there_is_named() -> None:
    subscription = subscribe(USAGE, start=at("2026-01-01"))
    statement = life(read_terms(subscription))[1]
    meter = MeterEntry(
        meter_no=1, revision=1, event_type="e", aggregation=Aggregation.COUNT, value=None, filters=(), group_by=()
    )
    [need] = usage_needs(subscription, statement, {("ten_1", "tokens"): meter})
    assert need.period == Period(start=at("2026-01-01"), end=at("2026-02-01"))
    with pytest.raises(Reject) as caught:
        usage_needs(subscription, statement, {("ten_2", "tokens"): meter})
    assert caught.value.code == "subscription.unknown_meter"
