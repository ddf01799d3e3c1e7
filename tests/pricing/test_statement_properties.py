"""What holds of the statements of any subscription."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.statements import (
    next_instant,
    next_statement,
    statement_at,
    statements,
    unbilled_at,
)
from pricing.terms import read_terms
from schemas.billing import BilledSubscription
from schemas.errors import Reject
from schemas.instants import Period
from tests.pricing.subscribed import (
    BASE,
    NEW_YORK,
    SETUP,
    SUPPORT,
    USAGE,
    YEARLY,
    amounts,
    at,
    subscribe,
)

PRICES = st.lists(st.sampled_from([BASE, YEARLY, USAGE, SUPPORT, SETUP]), min_size=1, unique_by=lambda p: p["key"])
INSTANTS = st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
ZONES = st.sampled_from(["UTC", NEW_YORK, "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])


@st.composite
def subscriptions(draw: st.DrawFn) -> BilledSubscription:
    start = draw(INSTANTS)
    stop = start + draw(st.timedeltas(timedelta(0), timedelta(days=900)))
    prices = [
        price
        if price is SETUP
        else price | {"billing_period": draw(st.sampled_from(["week", "month", "quarter", "year"]))}
        for price in draw(PRICES)
    ]
    return subscribe(
        *prices,
        start=start,
        timezone=draw(ZONES),
        billing_anchor=start + draw(st.timedeltas(timedelta(days=-400), timedelta(days=400))),
        alignment=draw(st.sampled_from(["anniversary", "calendar"])),
        cancel_at=draw(st.sampled_from([None, stop])),
        end_at=stop + timedelta(days=100),
        cancel_proration=draw(st.booleans()),
    )


@given(subscriptions())
def test_billed_periods_have_no_gap_and_no_overlap(subscription: BilledSubscription) -> None:
    terms = read_terms(subscription)
    cut = list(statements(terms))
    assert cut[0].at == min(terms.start_at, terms.stop_at or terms.start_at)
    assert cut[-1].is_closing
    for earlier, later in pairwise(cut):
        assert later.period == Period(start=earlier.at, end=later.at)
    for price in terms.prices:
        billed = [line.period for s in cut for line in s.lines if line.price.key == price.key and not line.is_credit]
        assert all(one.end == other.start for one, other in pairwise(billed))
        if price.key != "setup" and billed and terms.stop_at is not None:
            assert billed[0].start == terms.start_at
            assert billed[-1].end >= terms.stop_at


@given(subscriptions(), st.data())
def test_the_statement_at_any_instant_is_one_of_the_life_of_the_subscription(
    subscription: BilledSubscription, data: st.DataObject
) -> None:
    terms = read_terms(subscription)
    cut = list(statements(terms))
    instant = data.draw(st.sampled_from([s.at for s in cut])) + data.draw(
        st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(days=-3), timedelta(days=5)])
    )
    assert statement_at(terms, instant) == next((s for s in cut if s.at >= instant), None)


@given(subscriptions(), st.data())
def test_what_is_billed_up_to_an_instant_is_not_found_again(
    subscription: BilledSubscription, data: st.DataObject
) -> None:
    terms = read_terms(subscription)
    cut = list(statements(terms))
    done = data.draw(st.integers(0, len(cut) - 1))
    instant = cut[done].at + data.draw(st.sampled_from([timedelta(0), timedelta(microseconds=-1), timedelta(days=5)]))
    billed = cut[:done]
    terms = replace(terms, billed_until=billed[-1].at if billed else None)
    assert unbilled_at(terms, instant) == next((s for s in cut[done:] if s.at >= instant), None)
    if billed:
        assert unbilled_at(terms, billed[-1].at) == cut[done]


@given(subscriptions())
def test_billing_step_by_step_makes_the_same_statements(subscription: BilledSubscription) -> None:
    terms = read_terms(subscription)
    for expected in statements(terms):
        assert next_statement(terms) == expected
        assert next_instant(terms) == expected.at
        terms = replace(terms, billed_until=expected.at)


@given(subscriptions())
def test_what_is_charged_and_credited_for_a_fee_is_what_was_used_of_it(subscription: BilledSubscription) -> None:
    plain = read_terms(replace(subscription, prices=[BASE], cancel_proration=True))
    charged = sum((amounts(plain, s).get("base", Decimal(0)) for s in statements(plain)), Decimal(0))
    assert charged >= 0
    if plain.stop_at is not None and plain.cancel_at is not None and plain.cancel_at > plain.start_at:
        ended = read_terms(replace(subscription, prices=[BASE], cancel_at=None, end_at=plain.cancel_at))
        known = sum((amounts(ended, s).get("base", Decimal(0)) for s in statements(ended)), Decimal(0))
        assert charged == known


def test_no_statement_is_looked_for_beyond_thousands() -> None:
    terms = read_terms(subscribe(BASE | {"billing_period": "day"}, start=at("2026-01-01")))
    found = statement_at(terms, at("2036-12-12"))
    assert found is not None
    assert found.at == at("2036-12-12")
    with pytest.raises(Reject, match="lie before"):
        statement_at(terms, at("2036-12-14"))
