"""Entitlements follow what happens to subscriptions, from that instant on; usage of a running period stays counted."""

from typing import Any

import pytest

from tests.ingestion_api.entitlements.test_checks import check, count
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER
from tests.support.api import Api

START = "2026-01-01T05:00:00Z"
TODAY = "2026-01-10T12:00:00Z"
FEE = {"key": "base", "type": "fixed", "model": "flat", "amount": "10"}


@pytest.fixture
def shop(api: Api) -> Api:
    """A small and a big plan and an add-on, all of which limit tokens; only the big one has sso."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    api.post("/v1/features", {"key": "sso", "type": "boolean"})
    api.post("/v1/features", {"key": "region", "type": "static"})
    for key, limit, more in (
        ("small", "100", [{"feature": "region", "value": "eu"}]),
        ("big", "1000", [{"feature": "sso"}, {"feature": "region", "value": "any"}]),
        ("boundless", None, []),
    ):
        entitlements: list[dict[str, Any]] = [{"feature": "tokens", "limit": limit}, *more]
        api.post("/v1/plans", {"key": key, "currency": "USD", "prices": [FEE], "entitlements": entitlements})
    api.post(
        "/v1/addons",
        {"key": "pack", "currency": "USD", "entitlements": [{"feature": "tokens", "limit": "50"}, {"feature": "sso"}]},
    )
    api.post("/v1/customers", CUSTOMER)
    return api


def subscribe(api: Api, plan: str = "small", **body: Any) -> str:
    with api.at(START):
        return api.post("/v1/subscriptions", {"customer": "acme", "plan": plan, **body})["id"]


def act(api: Api, subscription_id: str, action: str, *, on: str = TODAY, **body: Any) -> Any:
    with api.at(on):
        return api.post(f"/v1/subscriptions/{subscription_id}/{action}", body, status=200)


def test_limits_of_several_subscriptions_add_up_and_usage_counts_once(shop: Api) -> None:
    subscribe(shop)
    subscribe(shop, "big")
    count(shop, "tokens", START, "120")
    found = check(shop, "tokens", at=TODAY)
    assert (found["limit"], found["used"], found["remaining"]) == ("1100", "120", "980")
    assert check(shop, "sso", at=TODAY)["allowed"] is True
    assert check(shop, "region", at=TODAY)["value"] == "any"


def test_one_subscription_without_a_limit_makes_the_feature_unlimited(shop: Api) -> None:
    subscribe(shop)
    subscribe(shop, "boundless")
    count(shop, "tokens", START, "120")
    found = check(shop, "tokens", at=TODAY, quantity="1000000")
    assert (found["reason"], found["limit"], found["used"]) == ("unlimited", None, "120")


def test_a_change_of_plan_takes_effect_at_its_instant_and_keeps_what_is_used(shop: Api) -> None:
    subscription_id = subscribe(shop)
    count(shop, "tokens", START, "120")
    assert check(shop, "tokens", at=TODAY)["reason"] == "limit_exceeded"
    act(shop, subscription_id, "change", plan="big", at="2026-01-20T00:00:00Z")
    count_latest(shop, "130")
    assert check(shop, "tokens", at="2026-01-19T23:59:59Z")["limit"] == "100"
    found = check(shop, "tokens", at="2026-01-20T00:00:00Z")
    assert (found["allowed"], found["limit"], found["used"], found["remaining"]) == (True, "1000", "130", "870")
    assert found["period"] == {"start": START, "end": "2026-02-01T05:00:00Z"}
    assert check(shop, "sso", at="2026-01-19T23:59:59Z")["reason"] == "subscription_inactive"
    assert check(shop, "sso", at="2026-01-20T00:00:00Z")["allowed"] is True


def count_latest(api: Api, used: str) -> None:
    """A counter of the newest entitlement in its period that began on the first of January."""
    with api.database.transaction() as connection:
        connection.execute(
            "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, version)"
            " SELECT max(e.no), %s, 0, %s, 1 FROM entitlements e JOIN features f ON f.id = e.feature_id"
            " WHERE f.key = 'tokens'",
            (START, used),
        )


def test_a_change_that_is_withdrawn_leaves_the_entitlements_as_they_were(shop: Api) -> None:
    subscription_id = subscribe(shop)
    before = entries(shop, subscription_id)
    act(shop, subscription_id, "change", plan="big", at="2026-01-20T00:00:00Z")
    assert len(entries(shop, subscription_id)) == 2
    with shop.at(TODAY):
        response = shop.http.request("DELETE", f"/v1/subscriptions/{subscription_id}/scheduled_changes")
        assert response.status_code == 200, response.text
    assert entries(shop, subscription_id) == before
    assert check(shop, "tokens", at="2026-01-25T00:00:00Z")["limit"] == "100"


def entries(api: Api, subscription_id: str) -> list[Any]:
    """What flows know of the tokens of a subscription: key and newest body."""
    with api.database.transaction() as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (key) key, body FROM catalogue_changes WHERE kind = 'entitlement' AND key IN"
            " (SELECT key FROM catalogue_changes WHERE kind = 'entitlement' AND (body->>'customer_no')::bigint ="
            "  (SELECT c.no FROM customers c JOIN subscriptions s ON s.customer_id = c.id WHERE s.id = %s))"
            " ORDER BY key, version DESC",
            (subscription_id,),
        ).fetchall()
    return [(row["key"], row["body"]) for row in rows if row["body"] is not None]


def test_an_add_on_adds_to_the_limit_as_often_as_it_is_had(shop: Api) -> None:
    subscription_id = subscribe(shop)
    act(shop, subscription_id, "change", addons=[{"addon": "pack", "quantity": "3"}])
    assert check(shop, "tokens", at=TODAY)["limit"] == "250"
    assert check(shop, "sso", at=TODAY)["allowed"] is True
    act(shop, subscription_id, "change", at="2026-01-12T00:00:00Z", addons=[])
    assert check(shop, "tokens", at="2026-01-12T00:00:00Z")["limit"] == "100"
    assert check(shop, "sso", at="2026-01-12T00:00:00Z")["reason"] == "subscription_inactive"


def test_nothing_is_entitled_to_in_a_pause_and_usage_counts_on_after_it(shop: Api) -> None:
    subscription_id = subscribe(shop)
    count(shop, "tokens", START, "40")
    paused = act(shop, subscription_id, "pause", resume_at="2026-01-20T00:00:00Z")
    assert paused["status"] == "paused"
    for feature in ("tokens", "region"):
        assert check(shop, feature, at="2026-01-15T00:00:00Z")["reason"] == "subscription_inactive"
    count_latest(shop, "45")
    found = check(shop, "tokens", at="2026-01-20T00:00:00Z")
    assert (found["limit"], found["used"], found["period"]["start"]) == ("100", "45", START)


def test_a_draft_entitles_to_nothing_until_it_is_activated(shop: Api) -> None:
    subscription_id = subscribe(shop, draft=True)
    assert check(shop, "tokens", at=TODAY)["reason"] == "no_entitlement"
    assert act(shop, subscription_id, "activate")["status"] == "active"
    found = check(shop, "tokens", at=TODAY)
    assert (found["limit"], found["period"]["start"]) == ("100", TODAY)


def test_a_trial_entitles_and_its_end_begins_a_new_period(shop: Api) -> None:
    subscribe(shop, trial_days=14)
    end = "2026-01-15T05:00:00Z"
    assert check(shop, "tokens", at=TODAY)["period"] == {"start": START, "end": end}
    assert check(shop, "tokens", at=end)["period"] == {"start": end, "end": "2026-02-15T05:00:00Z"}


def test_a_trial_that_ends_in_a_cancellation_ends_the_entitlements(shop: Api) -> None:
    subscribe(shop, trial_days=14, trial_end_behavior="cancel")
    assert check(shop, "tokens", at=TODAY)["allowed"] is True
    assert check(shop, "tokens", at="2026-01-15T05:00:00Z")["reason"] == "subscription_inactive"


def test_without_a_payment_method_the_trial_ends_the_entitlements_and_with_one_it_does_not(shop: Api) -> None:
    subscribe(shop, trial_days=14, trial_end_behavior="cancel_without_payment_method")
    end = "2026-01-15T05:00:00Z"
    assert check(shop, "tokens", at=end)["reason"] == "subscription_inactive"
    assert shop.http.patch("/v1/customers/acme", json={"has_payment_method": True}).status_code == 200
    assert check(shop, "tokens", at=end)["allowed"] is True


def test_a_check_asks_at_the_now_of_the_customers_test_clock(shop: Api) -> None:
    clock = shop.post("/v1/test_clocks", {"now": START})
    shop.post("/v1/customers", {"external_id": "timed", "test_clock": clock["id"]})
    made = shop.post("/v1/subscriptions", {"customer": "timed", "plan": "small"})
    assert (made["start_at"], made["test_clock"]) == (START, clock["id"])
    found = shop.post("/v1/entitlements/check", {"customer": "timed", "feature": "tokens"}, status=200)
    assert (found["limit"], found["period"]["start"]) == ("100", START)
    assert len(shop.get("/v1/customers/timed/entitlements")["data"]) == 2
