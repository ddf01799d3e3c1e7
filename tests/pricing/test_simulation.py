"""Simulations: pure, of one customer, beside what was invoiced."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.simulation import invoiced_within, make_scenario, simulate
from schemas.errors import Reject
from tests.pricing.subscribed import BASE, USAGE, at, subscribe, used

AMOUNTS = st.lists(st.decimals(0, 10**6, places=2), min_size=1, max_size=6).filter(any)


@given(AMOUNTS, st.data())
def test_what_is_within_and_what_is_not_add_up_to_the_invoice_after_its_discount(
    amounts: list[Decimal], data: st.DataObject
) -> None:
    subtotal = sum(amounts)
    discount = data.draw(st.decimals(0, subtotal, places=2))
    within = data.draw(st.lists(st.booleans(), min_size=len(amounts), max_size=len(amounts)))
    inside = invoiced_within(amounts, within, discount, 2)
    outside = invoiced_within(amounts, [not each for each in within], discount, 2)
    assert inside + outside == subtotal - discount


def test_the_lines_of_a_simulation_add_up_over_all_its_periods() -> None:
    scenario = make_scenario(subscribe(BASE, USAGE, start=at("2026-01-01"), end_at=at("2026-03-16")))
    usage = {f"cus_1/{number}": used(100 * number) for number in range(len(scenario.statements))}
    found = simulate(scenario, usage, customer_id="cus_1")
    lines = {line.key: (line.quantity, line.amount) for line in found.lines}
    assert lines == {"base": (3, Decimal("77.00")), "tokens": (600, Decimal("6.00"))}  # March: 15 of 31 days
    assert found.amount == Decimal("83.00")


def test_a_range_of_more_statements_than_one_customer_may_have_is_refused() -> None:
    daily = BASE | {"billing_period": "day"}
    with pytest.raises(Reject) as caught:
        make_scenario(subscribe(daily, start=at("2026-01-01"), end_at=at("2046-01-01")))
    assert caught.value.code == "pricing.simulation_too_long"
