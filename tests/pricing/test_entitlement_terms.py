"""Entitlements as they are stored: when they are in effect, and what is carried over from the period before."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pricing.entitlement_terms import carried_into, formers_of, in_effect_at, limit_with, period_of

START = datetime(2026, 1, 10, tzinfo=UTC)
NOW = datetime(2026, 3, 15, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)

QUANTITIES = st.decimals(0, 1_000_000, places=12)


def row(**terms: Any) -> dict[str, Any]:
    return {
        "no": 1,
        "subscription_id": "sub_1",
        "source": "plan",
        "feature_id": "fea_1",
        "limit_quantity": Decimal(100),
        "rollover_max": Decimal(50),
        "reset": "month",
        "timezone": "UTC",
        "billing_anchor": START,
        "billing_period": "month",
        "billing_period_count": 1,
        "alignment": "anniversary",
        "starts_at": START,
        "effective_at": START,
        "ends_at": None,
        "holds_until": None,
        **terms,
    }


def limit_of_former(present: dict[str, Any], *others: dict[str, Any], now: datetime = NOW) -> Decimal | None:
    formers = formers_of([present], [present, *others], {present["no"]: period_of(present, now)})
    return formers[present["no"]].limit if formers else None


def test_an_entitlement_holds_from_its_instant_to_before_its_end() -> None:
    terms = row(holds_until=NOW)
    moment = timedelta(microseconds=1)
    assert [in_effect_at(terms, at) for at in (START - moment, START, NOW - moment, NOW)] == [False, True, True, False]


@given(limit=QUANTITIES, used=QUANTITIES, most=QUANTITIES)
def test_what_is_carried_over_is_what_was_left_and_never_more_than_the_most(
    limit: Decimal, used: Decimal, most: Decimal
) -> None:
    present = row(limit_quantity=limit, rollover_max=most)
    formers = formers_of([present], [present], {1: period_of(present, NOW)})
    carried = carried_into([present], formers, {1: used})
    assert carried == {1: min(most, max(Decimal(0), limit - used))}
    assert limit_with(present, carried) == limit + carried[1]


def test_the_first_period_has_nothing_before_it() -> None:
    assert limit_of_former(row(), now=START) is None
    assert limit_of_former(row(), now=datetime(2026, 2, 1, tzinfo=UTC)) == 100


def test_the_period_before_is_whole_and_ends_where_this_one_starts() -> None:
    present = row()
    (former,) = formers_of([present], [present], {1: period_of(present, NOW)}).values()
    assert (former.period.start, former.period.end) == (datetime(2026, 2, 1, tzinfo=UTC), MARCH)


def test_the_limit_that_ended_the_period_before_counts() -> None:
    moved = datetime(2026, 3, 5, tzinfo=UTC)
    present = row(no=2, effective_at=moved)
    assert limit_of_former(present) is None
    assert limit_of_former(present, row(limit_quantity=Decimal(7), ends_at=moved)) == 7
    assert limit_of_former(present, row(limit_quantity=Decimal(7), ends_at=MARCH)) == 7
    assert limit_of_former(present, row(limit_quantity=Decimal(7), ends_at=MARCH - timedelta(days=1))) is None
    assert limit_of_former(present, row(limit_quantity=None, ends_at=moved)) is None
    assert limit_of_former(present, row(reset="day", ends_at=moved)) is None
    assert limit_of_former(present, row(source="add_1", ends_at=moved)) is None
    assert limit_of_former(present, row(subscription_id="sub_2", ends_at=moved)) is None
