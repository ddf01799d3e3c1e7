"""Burn-down: nothing is lost between grants, burns, balances and expiry, and a run may be cut anywhere."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.credits import NEVER, Grant, Recurrence, UsageAt, burn_down, roll_over
from pricing.given import burn_down_given
from pricing.periods import BillingPeriod
from schemas.errors import Reject

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 60

# Whole hours, so that grants, usage, refills and cuts often meet at one instant.
HOURS = st.integers(-10 * 24, (DAYS + 10) * 24).map(lambda hour: START + timedelta(hours=hour - hour % 12))
AMOUNTS = st.decimals(0, 100, places=2)


@st.composite
def grants(draw: st.DrawFn) -> list[Grant]:
    return [
        Grant(
            id=f"g{number}",
            amount=draw(AMOUNTS),
            priority=draw(st.integers(0, 2)),
            effective_at=draw(HOURS),
            expires_at=draw(st.none() | HOURS),
            voided_at=draw(st.none() | HOURS),
            recurrence=draw(
                st.none()
                | st.builds(Recurrence, every=st.sampled_from([BillingPeriod.DAY, BillingPeriod.WEEK]), anchor=HOURS)
            ),
        )
        for number in range(draw(st.integers(0, 4)))
    ]


USAGE = st.lists(st.builds(UsageAt, at=HOURS, amount=st.decimals(-50, 100, places=2)), max_size=12)
END = START + timedelta(days=DAYS)


@given(grants(), USAGE, AMOUNTS)
def test_granted_is_burned_and_balance_and_expired_for_every_grant(
    given_grants: list[Grant], usage: list[UsageAt], overage: Decimal
) -> None:
    state = burn_down(given_grants, usage, START, END, overage=overage)
    for grant in given_grants:
        parts = state.burned[grant.id] + state.balances[grant.id] + state.expired[grant.id]
        assert state.granted[grant.id] == parts
        assert 0 <= state.balances[grant.id] <= grant.amount
        assert state.balances[grant.id] == 0 or grant.in_effect(END)
    assert state.balance == sum(state.balances.values())
    assert state.overage >= 0


@given(grants(), USAGE, AMOUNTS)
def test_usage_is_burned_or_overage_or_unreturned(
    given_grants: list[Grant], usage: list[UsageAt], overage: Decimal
) -> None:
    state = burn_down(given_grants, usage, START, END, overage=overage)
    used = sum((one.amount for one in usage if START <= one.at < END), overage)
    assert used == sum(state.burned.values()) + state.overage - state.unreturned
    assert state.unreturned >= 0


@given(grants(), USAGE, st.randoms())
def test_the_order_of_lists_is_irrelevant(given_grants: list[Grant], usage: list[UsageAt], random: Any) -> None:
    state = burn_down(given_grants, usage, START, END)
    shuffled_grants, shuffled_usage = given_grants[:], usage[:]
    random.shuffle(shuffled_grants)
    random.shuffle(shuffled_usage)
    assert burn_down(shuffled_grants, shuffled_usage, START, END) == state


@given(grants(), USAGE, HOURS.filter(lambda at: START <= at <= END))
def test_a_run_cut_anywhere_ends_in_the_same_state(
    given_grants: list[Grant], usage: list[UsageAt], cut: datetime
) -> None:
    whole = burn_down(given_grants, usage, START, END)
    first = burn_down(given_grants, usage, START, cut)
    second = burn_down(given_grants, usage, cut, END, balances=first.balances, overage=first.overage)
    assert (second.balances, second.overage) == (whole.balances, whole.overage)


@given(grants(), USAGE, AMOUNTS)
def test_a_plain_reckoning_day_by_day_agrees(given_grants: list[Grant], usage: list[UsageAt], overage: Decimal) -> None:
    """Without refills and negative usage: step through half days with a list and fractions."""
    plain = [replace(grant, recurrence=None) for grant in given_grants]
    positive = [one for one in usage if one.amount >= 0]
    left = {grant.id: Fraction(0) for grant in plain}
    over = Fraction(overage)
    order = sorted(plain, key=lambda g: (g.priority, g.expires_at or NEVER, g.effective_at, g.id))
    at = START
    while at <= END:
        for grant in plain:
            if not grant.in_effect(at):
                left[grant.id] = Fraction(0)
            elif at == START or grant.effective_at == at:
                left[grant.id] = Fraction(grant.amount)
        due = over
        if at < END:
            due += sum((Fraction(one.amount) for one in positive if one.at == at), Fraction(0))
        for grant in order:
            taken = min(due, left[grant.id])
            left[grant.id] -= taken
            due -= taken
        over = due
        at += timedelta(hours=12)
    state = burn_down(plain, positive, START, END, overage=overage)
    assert {name: Fraction(value) for name, value in state.balances.items()} == left
    assert Fraction(state.overage) == over


def one(**changes: Any) -> Grant:
    return Grant(**({"id": "g", "amount": Decimal(100), "priority": 1, "effective_at": START} | changes))


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def test_a_refill_is_after_the_start_and_before_the_end() -> None:
    weekly = Recurrence(every=BillingPeriod.WEEK, anchor=START)
    grant = one(recurrence=weekly, expires_at=day(14))
    used = [UsageAt(at=day(1), amount=Decimal(60)), UsageAt(at=day(7), amount=Decimal(10))]
    state = burn_down([grant], used, START, day(13))
    assert (state.balance, state.granted["g"], state.expired["g"]) == (90, 200, 40)
    assert burn_down([grant], used, START, day(14)).balance == 0


def test_negative_usage_lowers_overage_then_fills_the_last_burned_grant_first() -> None:
    first, second = one(id="a", amount=Decimal(10)), one(id="b", amount=Decimal(10), priority=2)
    used = [UsageAt(at=day(1), amount=Decimal(22)), UsageAt(at=day(2), amount=Decimal(-14))]
    state = burn_down([first, second], used, START, day(3))
    assert (state.balances, state.overage) == ({"a": 2, "b": 10}, 0)


def test_what_nothing_can_take_back_is_told_and_changes_nothing() -> None:
    state = burn_down([one()], [UsageAt(at=day(1), amount=Decimal(-5))], START, day(2))
    assert (state.balance, state.unreturned, state.burned["g"]) == (100, 5, 0)


def test_usage_of_one_instant_counts_as_its_sum() -> None:
    used = [UsageAt(at=day(1), amount=Decimal(-5)), UsageAt(at=day(1), amount=Decimal(105))]
    assert burn_down([one()], used, START, day(2)).overage == 0


def test_refills_keep_their_wall_time_in_a_timezone() -> None:
    anchor = datetime(2026, 3, 1, 5, tzinfo=UTC)  # midnight in New York, before the clocks change on 8 March
    monthly = one(effective_at=anchor, recurrence=Recurrence(every=BillingPeriod.MONTH, anchor=anchor))
    used = [UsageAt(at=anchor, amount=Decimal(60))]
    refilled = datetime(2026, 4, 1, 4, tzinfo=UTC)
    assert burn_down([monthly], used, anchor, refilled, timezone="America/New_York").balance == 100
    assert burn_down([monthly], used, anchor, refilled, timezone="UTC").balance == 40


@pytest.mark.parametrize(
    ("balance", "minimum", "maximum", "kept"),
    [
        ("50", "0", None, "50"),
        ("50", "0", "20", "20"),
        ("5", "10", "20", "10"),
        ("50", "30", "20", "20"),
        ("0", "0", "0", "0"),
    ],
)
def test_rollover_keeps_a_balance_between_its_bounds(
    balance: str, minimum: str, maximum: str | None, kept: str
) -> None:
    found = roll_over(Decimal(balance), minimum=Decimal(minimum), maximum=None if maximum is None else Decimal(maximum))
    assert found == Decimal(kept)


def test_too_many_refills_are_rejected() -> None:
    often = [one(id=f"g{number}", recurrence=Recurrence(every=BillingPeriod.DAY, anchor=START)) for number in range(20)]
    with pytest.raises(Reject, match="refill more than"):
        burn_down(often, [], START, datetime(2050, 1, 1, tzinfo=UTC))


GRANT = {"id": "g", "amount": "10", "priority": "1", "effective_at": "2026-01-01T00:00:00Z"}
GOOD = {"grants": [GRANT], "usage": [], "from": "2026-01-02T00:00:00Z", "to": "2026-02-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"grants": None}, "pricing.invalid_field", "/grants"),
        ({"grants": [GRANT, GRANT]}, "pricing.invalid_grant", "/grants"),
        ({"grants": [GRANT | {"id": ""}]}, "pricing.invalid_field", "/grants/0/id"),
        ({"grants": [GRANT | {"amount": "-1"}]}, "pricing.invalid_decimal", "/grants/0/amount"),
        ({"grants": [GRANT | {"priority": "1.5"}]}, "pricing.invalid_decimal", "/grants/0/priority"),
        ({"grants": [GRANT | {"expires_at": None}]}, "pricing.invalid_instant", "/grants/0/expires_at"),
        (
            {"grants": [GRANT | {"recurrence": {"every": "once", "anchor": "2026-01-01T00:00:00Z"}}]},
            "pricing.invalid_grant",
            "/grants/0/recurrence/every",
        ),
        ({"grants": [GRANT | {"color": "red"}]}, "request.unknown_field", "/grants/0/color"),
        ({"usage": [{"at": "2026-01-02T00:00:00Z"}]}, "pricing.invalid_field", "/usage/0/amount"),
        ({"balances": {"h": "1"}}, "pricing.invalid_balances", "/balances"),
        ({"balances": {}}, "pricing.invalid_balances", "/balances"),
        ({"balances": {"g": "-1"}}, "pricing.invalid_decimal", "/balances/g"),
        ({"overage": "-1"}, "pricing.invalid_decimal", "/overage"),
        ({"to": "2026-01-01T23:59:59Z"}, "pricing.invalid_period", "/to"),
    ],
)
def test_a_wrong_burn_down_is_named_by_code_and_pointer(changes: dict[str, Any], code: str, pointer: str) -> None:
    with pytest.raises(Reject) as caught:
        burn_down_given(GOOD | changes)
    assert (caught.value.code, caught.value.errors[0].pointer) == (code, pointer)


def test_a_grant_that_starts_with_the_run_may_be_left_out_of_the_balances() -> None:
    assert burn_down_given(GOOD | {"from": "2026-01-01T00:00:00Z", "balances": {}})["balance"] == "10"
