from datetime import datetime
from typing import Any

import pytest

from ingestion_api.entitlements.routes import MAX_CHECKS
from tests.ingestion_api.test_worked_example import CUSTOMER, FEATURE, METER
from tests.support.api import Api

NOW = "2026-03-10T12:00:00Z"
PERIOD = {"start": "2026-03-01T05:00:00Z", "end": "2026-04-01T04:00:00Z"}


@pytest.fixture
def acme(api: Api) -> Api:
    """Customer acme, who has 1,000 tokens a month, softly 10 calls for ever, sso and a region, but not beta."""
    api.post("/v1/meters", METER)
    api.post("/v1/features", FEATURE)
    api.post("/v1/features", {"key": "calls", "type": "metered", "meter": "tokens"})
    for key in ("sso", "beta", "extra"):
        api.post("/v1/features", {"key": key, "type": "boolean"})
    api.post("/v1/features", {"key": "region", "type": "static"})
    entitlements: list[dict[str, Any]] = [
        {"feature": "tokens", "limit": "1000"},
        {"feature": "calls", "limit": "10", "reset": "never", "enforcement": "soft"},
        {"feature": "sso"},
        {"feature": "beta", "value": False},
        {"feature": "region", "value": ["eu", 1.5]},
    ]
    price = {"key": "base", "type": "fixed", "model": "flat", "amount": "1"}
    body = {"key": "pro", "currency": "USD", "prices": [price], "entitlements": entitlements}
    api.post("/v1/plans", body)
    api.post("/v1/customers", CUSTOMER)
    with api.at("2026-01-01T05:00:00Z"):
        api.post("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
    return api


def count(api: Api, feature: str, period_start: str, *shards: str) -> None:
    """Counters as flows write them, a row a shard."""
    with api.database.transaction() as connection:
        for shard, used in enumerate(shards):
            connection.execute(
                "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, version)"
                " SELECT entitlements.no, %s, %s, %s, 1 FROM entitlements JOIN features ON features.id = feature_id"
                " JOIN customers ON customers.id = customer_id WHERE key = %s AND entitlements.tenant_id ="
                " (SELECT tenant_id FROM entitlements ORDER BY no DESC LIMIT 1)",
                (period_start, shard, used, feature),
            )


def check(api: Api, feature: str, *, at: str = NOW, **body: Any) -> Any:
    with api.at(at):
        return api.post("/v1/entitlements/check", {"customer": "acme", "feature": feature, **body}, status=200)


def test_usage_is_summed_over_shards_in_the_period_of_now_alone(acme: Api) -> None:
    count(acme, "tokens", "2026-02-01T05:00:00Z", "999")
    count(acme, "tokens", PERIOD["start"], "300", "99.5")
    found = check(acme, "tokens", quantity="600.5")
    assert (found["allowed"], found["reason"]) == (True, "within_limit")
    assert (found["limit"], found["used"], found["remaining"], found["overage"]) == ("1000", "399.5", "600.5", "0")
    assert found["period"] == PERIOD
    assert (found["customer"], found["feature"], found["type"]) == ("acme", "tokens", "metered")
    assert check(acme, "tokens", quantity="600.500000000001")["reason"] == "limit_exceeded"


def test_a_hard_limit_refuses_and_a_soft_one_tells(acme: Api) -> None:
    count(acme, "tokens", PERIOD["start"], "1000")
    count(acme, "calls", "2026-01-01T05:00:00Z", "12")
    hard, soft = check(acme, "tokens"), check(acme, "calls")
    assert (hard["allowed"], hard["reason"], hard["remaining"]) == (False, "limit_exceeded", "0")
    assert (soft["allowed"], soft["reason"], soft["overage"]) == (True, "soft_limit_exceeded", "2")
    assert soft["period"] == {"start": "2026-01-01T05:00:00Z", "end": None}
    assert check(acme, "tokens", quantity=0)["allowed"] is True


def test_features_that_are_not_metered_answer_their_value(acme: Api) -> None:
    on, off, region = check(acme, "sso"), check(acme, "beta"), check(acme, "region")
    assert (on["allowed"], on["reason"], on["value"]) == (True, "unlimited", True)
    assert (off["allowed"], off["reason"], off["value"]) == (False, "feature_off", False)
    assert (region["allowed"], region["value"]) == (True, ["eu", 1.5])
    assert on["limit"] is on["used"] is on["period"] is None


def test_without_an_entitlement_or_a_running_subscription_nothing_is_allowed(acme: Api) -> None:
    assert check(acme, "extra")["reason"] == "no_entitlement"
    before = check(acme, "tokens", at="2026-01-01T04:59:59Z")
    assert (before["allowed"], before["reason"]) == (False, "subscription_inactive")
    [subscription] = acme.get("/v1/subscriptions")["data"]
    with acme.at(NOW):
        acme.post(f"/v1/subscriptions/{subscription['id']}/cancel", {"at": "now"}, status=200)
    assert check(acme, "tokens")["reason"] == "subscription_inactive"
    assert check(acme, "sso")["reason"] == "subscription_inactive"


def test_an_unlimited_feature_still_says_what_is_used(acme: Api) -> None:
    price = {"key": "base", "type": "fixed", "model": "flat", "amount": "1"}
    entitlements = [{"feature": "tokens", "limit": None}]
    acme.post("/v1/plans", {"key": "max", "currency": "USD", "prices": [price], "entitlements": entitlements})
    with acme.at("2026-03-05T00:00:00Z"):
        acme.post("/v1/subscriptions", {"customer": "acme", "plan": "max"})
    found = check(acme, "tokens", quantity="1000000")
    assert (found["allowed"], found["reason"], found["limit"], found["remaining"]) == (True, "unlimited", None, None)
    assert found["used"] == "0"


def test_counters_say_as_of_when_they_are_complete(acme: Api) -> None:
    assert check(acme, "tokens")["as_of"] is None
    settings = acme.settings
    with acme.database.transaction() as connection:
        for partition in range(settings.events_partitions):
            connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until) VALUES (%s, %s, 0, %s)",
                (settings.events_topic, partition, datetime.fromisoformat(f"2026-03-10T11:59:5{partition}.25Z")),
            )
    found = check(acme, "tokens")
    assert (found["as_of"], found["lag_seconds"]) == ("2026-03-10T11:59:50.250000Z", 9.75)
    with acme.database.transaction() as connection:
        connection.execute("DELETE FROM shard_offsets")


def test_many_checks_are_answered_in_their_order(acme: Api) -> None:
    features = ["tokens", "beta", "tokens", "sso", "extra"]
    checks = [{"customer": "acme", "feature": feature} for feature in features]
    with acme.at(NOW):
        found = acme.post("/v1/entitlements/check", {"checks": checks}, status=200)
    assert [each["feature"] for each in found["data"]] == features
    assert [each["allowed"] for each in found["data"]] == [True, False, True, True, False]


def test_a_customers_entitlements_are_those_in_effect(acme: Api) -> None:
    count(acme, "tokens", PERIOD["start"], "1")
    with acme.at(NOW):
        found = acme.get("/v1/customers/acme/entitlements")
    assert [each["feature"] for each in found["data"]] == ["beta", "calls", "region", "sso", "tokens"]
    assert found["data"][4]["used"] == "1"
    with acme.at("2025-12-31T00:00:00Z"):
        assert acme.get("/v1/customers/acme/entitlements")["data"] == []


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({"customer": "none", "feature": "tokens"}, 404, "customer.not_found", "/customer"),
        ({"customer": "acme", "feature": "none"}, 404, "feature.not_found", "/feature"),
        ({"customer": "acme", "feature": "tokens", "quantity": "-1"}, 422, "request.invalid_field", "/quantity"),
        ({"customer": "acme", "feature": "tokens", "quantity": "x"}, 422, "request.invalid_field", "/quantity"),
        ({"customer": "acme", "feature": "tokens", "quantity": True}, 422, "request.invalid_field", "/quantity"),
        ({"customer": "acme"}, 422, "request.missing_field", "/feature"),
        ({"customer": "acme", "feature": "tokens", "x": 1}, 422, "request.unknown_field", "/x"),
        ({"checks": []}, 422, "request.invalid_field", "/checks"),
        ({"checks": [{"customer": "acme", "feature": "tokens", "x": 1}]}, 422, "request.unknown_field", "/checks/0/x"),
        ({"checks": [{"customer": "acme", "feature": "none"}]}, 404, "feature.not_found", "/checks/0/feature"),
        (
            {"checks": [{"customer": "acme", "feature": "tokens"}] * (MAX_CHECKS + 1)},
            422,
            "request.invalid_field",
            "/checks",
        ),
        ([], 422, "request.invalid_field", ""),
    ],
)
def test_a_bad_check_is_refused_at_its_field(acme: Api, body: Any, status: int, code: str, pointer: str) -> None:
    problem = acme.post("/v1/entitlements/check", body, status=status)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)


def test_a_check_key_may_check_and_list_and_nothing_else(acme: Api) -> None:
    client = acme.with_key(acme.post("/v1/api_keys", {"name": "gate", "role": "check"})["secret"])
    body = {"customer": "acme", "feature": "sso"}
    assert client.post("/v1/entitlements/check", json=body).status_code == 200
    assert client.get("/v1/customers/acme/entitlements").status_code == 200
    assert client.get("/v1/customers/acme").status_code == 403
