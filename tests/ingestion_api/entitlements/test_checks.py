from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.clickhouse.client import connect as connect_clickhouse
from infra.postgres.meters import load_entries
from ingestion_api.entitlements.routes import MAX_CHECKS
from ingestion_api.entitlements.stored import open_stored_usage
from tests.infra.clickhouse.rows import StoredEvent, store_events
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


@contextmanager
def flow_is_at(api: Api, *, counted: str, stored: str) -> Iterator[None]:
    """As flows write it down, a row a partition; the last partition is a second ahead."""
    last = api.settings.events_partitions - 1
    with api.database.transaction() as connection:
        for partition in range(last + 1):
            ahead = timedelta(seconds=partition == last)
            connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until, stored_until)"
                " VALUES (%s, %s, 0, %s, %s)",
                (
                    api.settings.events_topic,
                    partition,
                    datetime.fromisoformat(counted) + ahead,
                    datetime.fromisoformat(stored) + ahead,
                ),
            )
    try:
        yield
    finally:
        with api.database.transaction() as connection:
            connection.execute("DELETE FROM shard_offsets")


def test_counters_say_as_of_when_they_are_complete(acme: Api) -> None:
    count(acme, "tokens", PERIOD["start"], "1")
    assert check(acme, "tokens")["as_of"] is None
    with flow_is_at(acme, counted="2026-03-10T11:59:50.25Z", stored="2026-03-10T11:59:40Z"):
        found = check(acme, "tokens")
    assert (found["as_of"], found["lag_seconds"]) == ("2026-03-10T11:59:50.250000Z", 9.75)


@pytest.fixture
def uncounted(acme: Api) -> Api:
    """999 tokens in the windows, some of them in the cut minute at the period's start, and no counter yet."""
    with acme.database.transaction() as connection:
        row = connection.execute(
            "SELECT customers.no, tenants.no AS tenant_no, meters.no AS meter_no FROM customers"
            " JOIN tenants ON tenants.id = customers.tenant_id JOIN meters ON meters.tenant_id = tenants.id"
            " WHERE external_id = 'acme' ORDER BY customers.no DESC LIMIT 1"
        ).fetchone()
        assert row is not None
        connection.execute("UPDATE meters SET is_built = true WHERE no = %s", (row["meter_no"],))
        meters = list(load_entries(connection, meter_nos=[row["meter_no"]]).values())
    events = [
        StoredEvent(
            id=str(number), customer_no=row["no"], occurred_at=datetime.fromisoformat(at), type=METER["event_type"],
            data=f'{{"tokens":{tokens},"model":"m"}}', meters=meters,
        )
        for number, (at, tokens) in enumerate(
            [("2026-03-01T04:59:59Z", 7000), ("2026-03-01T05:00:00Z", 900), ("2026-03-10T11:00:00Z", 99)]
        )
    ]  # fmt: skip
    client = connect_clickhouse(acme.settings.clickhouse_url)
    store_events(client, events, tenant_no=row["tenant_no"])
    client.close()
    return acme


def test_usage_that_no_counter_holds_yet_is_taken_from_the_windows_and_as_of_them(uncounted: Api) -> None:
    with flow_is_at(uncounted, counted="2026-03-10T11:59:50Z", stored="2026-03-10T11:59:40Z"):
        found = check(uncounted, "tokens", quantity="2")
        listed = uncounted.get("/v1/customers/acme/entitlements")["data"]
    assert (found["allowed"], found["reason"], found["used"]) == (False, "limit_exceeded", "999")
    assert (found["as_of"], found["lag_seconds"]) == ("2026-03-10T11:59:40Z", 20)
    assert {each["feature"] for each in listed} == {"beta", "calls", "region", "sso", "tokens"}


def test_while_its_meter_still_counts_the_past_usage_is_as_of_where_that_begins(uncounted: Api) -> None:
    with uncounted.database.transaction() as connection:
        connection.execute("UPDATE meters SET is_built = false, built_until = '2026-03-02T00:00:00Z'")
    with flow_is_at(uncounted, counted="2026-03-10T11:59:50Z", stored="2026-03-10T11:59:40Z"):
        assert check(uncounted, "tokens")["as_of"] == "2026-03-02T00:00:00Z"


def test_the_counter_of_one_shard_alone_is_not_what_is_used(uncounted: Api, operator: Api) -> None:
    context = operator.http.app.state.context
    settings = context.settings
    object.__setattr__(context, "settings", settings.model_copy(update={"flow_shards": 2}))
    try:
        count(uncounted, "tokens", PERIOD["start"], "5")
        assert check(uncounted, "tokens")["used"] == "999"
        count(uncounted, "calls", "2026-01-01T05:00:00Z", "5", "6")
        assert check(uncounted, "calls")["used"] == "11"
    finally:
        object.__setattr__(context, "settings", settings)


def test_what_no_store_can_say_is_never_guessed(uncounted: Api, operator: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a counter and without ClickHouse a hard limit can't be judged; what PostgreSQL knows is answered."""
    away = open_stored_usage(operator.settings)
    monkeypatch.setattr(away._client._backend, "_base_url", "http://127.0.0.1:9/")  # no setting of a client in use
    state = operator.http.app.state
    monkeypatch.setitem(state._state, "context", replace(state.context, stored_usage=away))
    with flow_is_at(uncounted, counted="2026-03-10T11:59:50Z", stored="2026-03-10T11:59:40Z"):
        unknown = check(uncounted, "tokens")
        count(uncounted, "tokens", PERIOD["start"], "1")
        counted = check(uncounted, "tokens")
    assert (unknown["allowed"], unknown["reason"], unknown["used"], unknown["as_of"]) == (False, "degraded", None, None)
    assert (unknown["limit"], unknown["period"]) == ("1000", PERIOD)
    assert (counted["used"], counted["as_of"]) == ("1", "2026-03-10T11:59:50Z")
    away.close()


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
