"""What a period leaves of its limit goes on into the next one, up to a most, and no further."""

from typing import Any

import pytest

from tests.ingestion_api.entitlements.test_checks import check
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER
from tests.support.api import Api

START = "2026-01-01T05:00:00Z"
FEBRUARY = "2026-02-01T05:00:00Z"
MARCH = "2026-03-01T05:00:00Z"
TODAY = "2026-02-10T12:00:00Z"
FEE = {"key": "base", "type": "fixed", "model": "flat", "amount": "10"}


@pytest.fixture
def saver(api: Api) -> Api:
    """Customer acme, of whose 100 tokens a month up to 60 are carried over; the bigger plan has 1,000 and 500."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    for key, limit, most in (("small", "100", "60"), ("big", "1000", "500"), ("plain", "100", None)):
        entitlement = {"feature": "tokens", "limit": limit, "reset": "month", "rollover_max": most}
        api.post("/v1/plans", {"key": key, "currency": "USD", "prices": [FEE], "entitlements": [entitlement]})
    api.post("/v1/customers", CUSTOMER)
    return api


def subscribe(api: Api, plan: str = "small", **body: Any) -> str:
    with api.at(START):
        return api.post("/v1/subscriptions", {"customer": "acme", "plan": plan, **body})["id"]


def used(api: Api, **by_start: str) -> None:
    """Counters of all entitlements to tokens."""
    starts = {"january": START, "february": FEBRUARY, "march": MARCH}
    with api.database.transaction() as connection:
        for month, quantity in by_start.items():
            connection.execute(
                "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, version)"
                " SELECT no, %s, 0, %s, 1 FROM entitlements WHERE tenant_id ="
                " (SELECT tenant_id FROM entitlements ORDER BY no DESC LIMIT 1)"
                " ON CONFLICT (entitlement_no, period_start, shard) DO UPDATE SET used = excluded.used",
                (starts[month], quantity),
            )


def standing(api: Api, at: str = TODAY) -> tuple[str, str, str]:
    found = check(api, "tokens", at=at)
    return found["limit"], found["rolled_over"], found["remaining"]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("40", ("160", "60", "130")),  # exactly the most
        ("0", ("160", "60", "130")),
        ("99.999999999999", ("100.000000000001", "0.000000000001", "70.000000000001")),
        ("100", ("100", "0", "70")),
        ("250", ("100", "0", "70")),
    ],
)
def test_what_was_not_used_is_carried_over_up_to_a_most(saver: Api, before: str, expected: Any) -> None:
    subscribe(saver)
    used(saver, january=before, february="30")
    assert standing(saver) == expected


def test_a_late_event_of_the_former_period_takes_of_what_was_carried_over(saver: Api) -> None:
    subscribe(saver)
    used(saver, january="80", february="110")
    assert check(saver, "tokens", at=TODAY, quantity="10")["allowed"] is True
    used(saver, january="81")
    assert check(saver, "tokens", at=TODAY, quantity="10")["reason"] == "limit_exceeded"


def test_what_was_carried_over_is_not_carried_on(saver: Api) -> None:
    subscribe(saver)
    used(saver, january="0", february="100", march="0")
    assert standing(saver, "2026-03-02T00:00:00Z") == ("100", "0", "100")
    used(saver, february="150")
    assert standing(saver, "2026-03-02T00:00:00Z") == ("100", "0", "100")


def test_nothing_is_carried_over_into_the_first_period(saver: Api) -> None:
    subscribe(saver)
    used(saver, january="30")
    assert standing(saver, "2026-01-31T00:00:00Z") == ("100", "0", "70")


def test_a_plan_without_it_carries_nothing_over(saver: Api) -> None:
    subscribe(saver, "plain")
    used(saver, january="30", february="30")
    assert standing(saver) == ("100", "0", "70")


def test_a_change_of_plan_carries_over_what_the_former_one_left(saver: Api) -> None:
    subscription_id = subscribe(saver)
    with saver.at("2026-02-05T00:00:00Z"):
        saver.post(f"/v1/subscriptions/{subscription_id}/change", {"plan": "big", "at": "now"}, status=200)
    used(saver, january="30", february="30")
    assert standing(saver) == ("1070", "70", "1040")
    assert standing(saver, "2026-02-04T00:00:00Z") == ("160", "60", "130")


def test_after_a_pause_over_the_end_of_a_period_nothing_is_carried_over(saver: Api) -> None:
    subscription_id = subscribe(saver)
    path = f"/v1/subscriptions/{subscription_id}"
    with saver.at("2026-01-20T00:00:00Z"):
        saver.post(f"{path}/pause", {"resume_at": "2026-02-05T00:00:00Z"}, status=200)
    used(saver, january="30", february="30")
    assert standing(saver) == ("100", "0", "70")


def test_a_customers_own_entitlement_carries_over_and_adds_up(saver: Api) -> None:
    subscribe(saver)
    body = {"feature": "tokens", "limit": "10", "reset": "month", "rollover_max": "5", "starts_at": START}
    saver.post("/v1/customers/acme/entitlements", body)
    used(saver, january="50", february="30")
    assert standing(saver) == ("160", "50", "130")
    body = {"customer": "acme", "feature": "tokens", "quantity": "130"}
    with saver.at(TODAY):
        reserved = saver.post("/v1/entitlements/reserve", body)
        assert (reserved["limit"], reserved["rolled_over"], reserved["remaining"]) == ("160", "50", "0")
        assert saver.http.post("/v1/entitlements/reserve", json={**body, "quantity": "0.1"}).status_code == 409


@pytest.mark.parametrize(
    "terms",
    [
        {"limit": None, "reset": "month"},
        {"limit": "1", "reset": "never"},
        {"limit": "1", "reset": "month", "most": "-1"},
    ],
)
def test_only_of_a_limit_that_is_reset_something_can_be_carried_over(saver: Api, terms: dict[str, Any]) -> None:
    entitlement = {"feature": "tokens", "rollover_max": terms.pop("most", "5"), **terms}
    body = {"key": "p", "currency": "USD", "prices": [], "entitlements": [entitlement]}
    problem = saver.post("/v1/plans", body, status=422)
    assert problem["errors"][0]["pointer"] == "/entitlements/0/rollover_max"
