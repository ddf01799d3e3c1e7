"""Entitlements that were given to a customer directly: beside those of subscriptions, and without any."""

from typing import Any

import pytest

from ingestion_api.control import given_entitlements
from tests.ingestion_api.entitlements.test_checks import check
from tests.ingestion_api.entitlements.test_lifecycle import START, TODAY, entries, shop, subscribe
from tests.support.api import Api

__all__ = ["shop"]

PATH = "/v1/customers/acme/entitlements"


def give(api: Api, feature: str, *, at: str = START, status: int = 201, **body: Any) -> Any:
    with api.at(at):
        return api.post(PATH, {"feature": feature, **body}, status=status)


def take(api: Api, entitlement_id: str) -> Any:
    return api.http.request("DELETE", f"{PATH}/{entitlement_id}")


def count_given(api: Api, entitlement_id: str, period_start: str, used: str) -> None:
    with api.database.transaction() as connection:
        connection.execute(
            "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, events, version)"
            " SELECT no, %s, 0, %s, 1, 1 FROM entitlements WHERE id = %s",
            (period_start, used, entitlement_id),
        )


def test_a_customer_without_a_subscription_has_what_it_was_given(shop: Api) -> None:
    assert check(shop, "tokens", at=TODAY)["reason"] == "no_entitlement"
    given = give(shop, "tokens", limit="100", reset="month", metadata={"why": "a friend"})
    give(shop, "sso")
    give(shop, "region", value=["eu", "us"])
    assert (given["limit"], given["reset"], given["enforcement"]) == ("100", "month", "hard")
    assert (given["starts_at"], given["ends_at"], given["timezone"]) == (START, None, "America/New_York")
    count_given(shop, given["id"], START, "40")
    found = check(shop, "tokens", at=TODAY, quantity="61")
    assert (found["allowed"], found["limit"], found["used"], found["remaining"]) == (False, "100", "40", "60")
    assert found["period"] == {"start": START, "end": "2026-02-01T05:00:00Z"}
    assert found["subscription"] is None
    assert check(shop, "sso", at=TODAY)["value"] is True
    assert check(shop, "region", at=TODAY)["value"] == ["eu", "us"]
    assert check(shop, "tokens", at="2026-01-01T04:59:59Z")["reason"] == "subscription_inactive"


def test_what_was_given_adds_to_the_plans_and_one_without_a_limit_wins(shop: Api) -> None:
    subscription_id = subscribe(shop)
    give(shop, "tokens", limit="25.5", ends_at="2026-01-20T00:00:00Z")
    give(shop, "region", value="mars")
    found = check(shop, "tokens", at=TODAY)
    assert (found["limit"], found["subscription"]) == ("125.5", subscription_id)
    assert check(shop, "region", at=TODAY)["value"] == "mars"
    assert check(shop, "tokens", at="2026-01-20T00:00:00Z")["limit"] == "100"
    give(shop, "tokens", limit=None, enforcement="soft")
    assert check(shop, "tokens", at=TODAY)["reason"] == "unlimited"
    with shop.at(TODAY):
        listed = shop.get(PATH)["data"]
    assert [(each["feature"], each["limit"]) for each in listed] == [("region", None), ("tokens", None)]


def test_levels_of_limits_that_began_at_different_times_are_not_added(shop: Api) -> None:
    shop.post("/v1/meters", {"key": "load", "event_type": "m", "aggregation": "avg", "value": "$.machines"})
    shop.post("/v1/features", {"key": "machines", "type": "metered", "meter": "load"})
    first = give(shop, "machines", limit="100", reset="never")
    second = give(shop, "machines", limit="50", reset="never", at=TODAY)
    count_given(shop, first["id"], START, "130")
    count_given(shop, second["id"], TODAY, "120")
    found = check(shop, "machines", at=TODAY, quantity="31")
    assert (found["limit"], found["used"], found["remaining"], found["allowed"]) == ("150", "120", "30", False)


def test_what_is_taken_back_is_as_if_it_had_not_been_and_flows_are_told(shop: Api) -> None:
    given = give(shop, "tokens", limit="5")
    assert shop.get(f"{PATH}/{given['id']}") == given
    assert [each["id"] for each in shop.get("/v1/entitlements", customer="acme", feature="tokens")["data"]] == [
        given["id"]
    ]
    assert len(bodies(shop)) == 1
    answer = take(shop, given["id"])
    assert (answer.status_code, answer.json()) == (200, given)
    assert take(shop, given["id"]).json()["code"] == "entitlement.not_found"
    assert check(shop, "tokens", at=TODAY)["reason"] == "no_entitlement"
    assert (shop.get("/v1/entitlements")["data"], bodies(shop)) == ([], [])
    with shop.database.transaction() as connection:
        rows = connection.execute("SELECT type FROM outbox WHERE object_id = %s ORDER BY no", (given["id"],)).fetchall()
    assert [row["type"] for row in rows] == ["entitlement.created", "entitlement.deleted"]


def bodies(api: Api) -> list[Any]:
    """What flows know of metered entitlements of this tenant's."""
    with api.database.transaction() as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (key) key, body FROM catalogue_changes WHERE kind = 'entitlement' AND tenant_no ="
            " (SELECT max(no) FROM tenants) ORDER BY key, version DESC"
        ).fetchall()
    return [row["body"] for row in rows if row["body"] is not None]


def test_a_subscriptions_changes_leave_what_was_given(shop: Api) -> None:
    given = give(shop, "tokens", limit="7")
    subscription_id = subscribe(shop)
    with shop.at(TODAY):
        shop.post(f"/v1/subscriptions/{subscription_id}/cancel", {"at": "now"}, status=200)
    assert check(shop, "tokens", at=TODAY)["limit"] == "7"
    assert len(entries(shop, subscription_id)) == 2
    assert shop.get(f"{PATH}/{given['id']}")["ends_at"] is None


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"feature": "none"}, "feature.not_found", "/feature"),
        ({"feature": "tokens"}, "entitlement.invalid_terms", "/limit"),
        ({"feature": "tokens", "limit": "-1"}, "entitlement.invalid_terms", "/limit"),
        ({"feature": "tokens", "limit": "1e400"}, "request.invalid_field", "/limit"),
        ({"feature": "tokens", "limit": "1", "value": 5}, "entitlement.invalid_terms", "/value"),
        ({"feature": "tokens", "limit": "1", "reset": "billing_period"}, "request.invalid_field", "/reset"),
        ({"feature": "sso", "limit": "1"}, "entitlement.invalid_terms", "/limit"),
        ({"feature": "region"}, "entitlement.invalid_terms", "/value"),
        ({"feature": "sso", "ends_at": START}, "entitlement.invalid_end", "/ends_at"),
        ({"feature": "sso", "source": "plan"}, "request.unknown_field", "/source"),
    ],
)
def test_what_can_not_be_given_is_refused_with_its_place(shop: Api, body: Any, code: str, pointer: str) -> None:
    with shop.at(START):
        problem = shop.post(PATH, body, status=422)
    assert (problem["errors"][0]["code"], problem["errors"][0]["pointer"]) == (code, pointer)


def test_only_what_has_not_ended_counts_towards_how_many_one_can_have(
    shop: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_entitlements, "MAX_GIVEN", 2)
    for day in (10, 11):
        give(shop, "tokens", limit="1", ends_at=f"2026-01-{day}T00:00:00Z")
    assert give(shop, "tokens", limit="1", status=409)["code"] == "entitlement.too_many"
    give(shop, "tokens", limit="1", at="2026-01-10T00:00:00Z")
    problem = give(shop, "tokens", limit="1", at="2026-01-10T23:59:59Z", status=409)
    assert problem["code"] == "entitlement.too_many"
