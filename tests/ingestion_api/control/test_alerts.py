"""Alerts over HTTP, judged as the worker judges them, on real stores."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from billing_workflows import alert_values
from billing_workflows.alerts import look_at
from infra.postgres.alerts import list_alerts
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import METER, SHARD, World, instant
from tests.support.wallets import add_customer, add_wallet, fill, invoice

METER_ALERT: dict[str, Any] = {"meter": METER, "threshold": {"amount": "100"}}


@pytest.fixture
def admin(world: World, billed: Api) -> Api:
    return api_of(world, billed, "admin")


def make(admin: Api, at: str = "2026-01-02", **body: Any) -> Any:
    with admin.at(f"{at}T00:00:00Z"):
        return admin.post("/v1/alerts", body)


def look(world: World, now: str) -> None:
    """Judge the tenant's alerts as a worker does."""
    with world.doors.database.transaction() as connection:
        rows = list_alerts(connection, tenant_id=world.tenant_id, before_id=None, limit=100)
    for row in rows:
        look_at(world.doors, row, shards=world.settings.flow_shards, now=instant(now))


def told(world: World, kind: str = "alert.triggered") -> list[dict[str, Any]]:
    rows = world.rows(
        "SELECT data FROM outbox WHERE tenant_id = %(id)s AND type = %(kind)s ORDER BY no",
        id=world.tenant_id,
        kind=kind,
    )
    return [row["data"] for row in rows]


def test_usage_of_a_meter_is_told_once_a_customer_and_period(world: World, admin: Api) -> None:
    first, second = world.subscribe(external_id="first"), world.subscribe(external_id="second")
    alert = make(admin, **METER_ALERT, metadata={"team": "ops"})
    world.use(first, ("2026-01-05", 99))
    look(world, "2026-01-06")
    assert told(world) == []
    world.use(first, ("2026-01-06", 1))
    for day in ("2026-01-06", "2026-01-06", "2026-01-07"):
        look(world, day)
    (event,) = told(world)
    assert event == {
        "id": alert["id"],
        "meter": METER,
        "feature": None,
        "wallet": None,
        "subscription": None,
        "customer": "first",
        "threshold": {"amount": "100"},
        "value": "100",
        "limit": None,
        "period": {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"},
        "metadata": {"team": "ops"},
    }
    world.use(first, ("2026-02-03", 200))
    world.use(second, ("2026-02-03", 200))
    look(world, "2026-02-04")
    look(world, "2026-02-04")
    assert sorted(each["customer"] for each in told(world)) == ["first", "first", "second"]


def test_usage_of_a_periods_last_seconds_is_told_after_its_end(world: World, admin: Api) -> None:
    subscription = world.subscribe()
    make(admin, **METER_ALERT, customer=subscription.customer_id, period="day")
    look(world, "2026-01-05T23:59:58")
    world.use(subscription, ("2026-01-05T23:59:59", 100))
    look(world, "2026-01-06T00:00:03")
    assert [each["period"]["start"] for each in told(world)] == ["2026-01-05T00:00:00Z"]


def test_customers_of_every_time_zone_are_judged_however_many_pages_of_them_there_are(
    world: World, admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_values, "PLACES_A_PAGE", 2)
    zones = ["Africa/Lagos", "America/Lima", "Asia/Tokyo", "Europe/Paris", "UTC"]
    for zone in zones:
        subscription = world.subscribe(external_id=zone)
        world.rows(
            "UPDATE customers SET timezone = %(zone)s WHERE id = %(id)s RETURNING 1",
            zone=zone,
            id=subscription.customer_id,
        )
        world.use(subscription, ("2026-01-05", 100))
    make(admin, **METER_ALERT)
    look(world, "2026-01-06")
    assert sorted(each["customer"] for each in told(world)) == zones


def test_one_look_tells_of_a_thousand_customers(world: World, admin: Api) -> None:
    first = world.subscribe()
    rows = world.rows(
        "INSERT INTO customers (id, tenant_id, external_id, name, currency, timezone, created_at)"
        " SELECT 'cus_' || md5(%(tenant)s || n), tenant_id, 'many-' || n, 'many', currency, timezone, created_at"
        " FROM customers, generate_series(1, 1001) AS n WHERE id = %(id)s RETURNING no",
        id=first.customer_id,
        tenant=world.tenant_id,
    )
    minute, seq = instant("2026-01-05"), world.next_seq
    usage = [[world.meter.meter_no, 1, row["no"], minute, [], SHARD, seq, 1, Decimal(100)] for row in rows]
    world.doors.clickhouse.insert("usage_minutes", usage)
    make(admin, **METER_ALERT)
    look(world, "2026-01-06")
    assert len({each["customer"] for each in told(world)}) == len(told(world)) == len(rows)


def test_two_who_look_at_once_tell_it_once(world: World, admin: Api) -> None:
    subscription = world.subscribe()
    make(admin, **METER_ALERT)
    world.use(subscription, ("2026-01-05", 500))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(look, world, "2026-01-06") for _ in range(8)]:
            done.result()
    assert len(told(world)) == 1


@pytest.mark.parametrize("point", ["alerts.taken", "alerts.before_commit"])
def test_what_a_killed_worker_left_is_told_once(world: World, admin: Api, point: str) -> None:
    subscription = world.subscribe()
    make(admin, **METER_ALERT)
    world.use(subscription, ("2026-01-05", 500))
    environment = os.environ | {
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
        "METERLINE_CRASH_AT": point,
    }
    command = [sys.executable, "-m", "tests.support.alerts_once", "2026-01-06T00:00:00Z"]
    killed = subprocess.run(command, env=environment, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert told(world) == []
    after = environment | {"METERLINE_CRASH_AT": ""}
    command[-1] = "2026-01-06T00:00:06Z"
    for _ in range(2):
        assert subprocess.run(command, env=after, check=False, timeout=60).returncode == 0
    assert len(told(world)) == 1


def test_a_balance_is_told_each_time_that_it_comes_down(world: World, admin: Api) -> None:
    customer_id = add_customer(world)
    wallet_id = add_wallet(world, customer_id)
    fill(world, wallet_id, 100_00)
    make(admin, wallet=wallet_id, threshold="20")

    def pay(amount: str, day: str) -> None:
        with world.doors.database.transaction() as connection:
            invoice(connection, world, [customer_id], amount, now=instant(day))
        look(world, day)
        look(world, day)

    pay("79", "2026-01-03")
    assert told(world) == []
    pay("1", "2026-01-04")
    pay("1", "2026-01-05")
    assert [each["value"] for each in told(world)] == ["20"]
    fill(world, wallet_id, 50_00, now="2026-01-06")
    look(world, "2026-01-06")
    pay("60", "2026-01-07")
    assert [each["value"] for each in told(world)] == ["20", "9"]


def test_the_running_cost_of_a_subscription_is_told_once_a_period(world: World, admin: Api) -> None:
    subscription = world.subscribe()
    world.bill(subscription, now="2026-01-01")
    make(admin, subscription=subscription.id, threshold={"amount": "50"})
    world.use(subscription, ("2026-01-05", 4999))
    look(world, "2026-01-06")
    assert told(world) == []
    world.use(subscription, ("2026-01-06", 1))
    look(world, "2026-01-07")
    look(world, "2026-01-08")
    (event,) = told(world)
    assert (event["value"], event["subscription"]) == ("50", subscription.id)
    assert event["period"] == {"start": "2026-01-01T00:00:00Z", "end": "2026-02-01T00:00:00Z"}


def test_a_part_of_a_limit_is_told_with_the_limit(world: World, admin: Api) -> None:
    admin.post("/v1/features", {"key": "tokens", "type": "metered", "meter": METER})
    price = {"key": "base", "type": "fixed", "model": "flat", "amount": "1"}
    entitlement = {"feature": "tokens", "limit": "1000"}
    admin.post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [price], "entitlements": [entitlement]})
    admin.post("/v1/customers", {"external_id": "acme", "timezone": "UTC"})
    with admin.at("2026-01-01T00:00:00Z"):
        admin.post("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
    make(admin, feature="tokens", threshold={"percent": "80"}, customer="acme")
    (row,) = world.rows("SELECT no, id FROM customers WHERE tenant_id = %(id)s", id=world.tenant_id)
    acme = replace(world.subscribe(), customer_no=row["no"])
    world.use(acme, ("2026-01-05", 799))
    look(world, "2026-01-06")
    assert told(world) == []
    world.use(acme, ("2026-01-05", 1))
    look(world, "2026-01-06")
    look(world, "2026-01-07")
    (event,) = told(world)
    assert (event["customer"], event["value"], event["limit"]) == ("acme", "800", "1000")


def test_a_part_of_a_limit_is_one_of_what_was_carried_over_too(world: World, admin: Api) -> None:
    admin.post("/v1/features", {"key": "tokens", "type": "metered", "meter": METER})
    price = {"key": "base", "type": "fixed", "model": "flat", "amount": "1"}
    entitlement = {"feature": "tokens", "limit": "1000", "rollover_max": "200"}
    admin.post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [price], "entitlements": [entitlement]})
    admin.post("/v1/customers", {"external_id": "acme", "timezone": "UTC"})
    with admin.at("2026-01-01T00:00:00Z"):
        admin.post("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
    make(admin, feature="tokens", threshold={"percent": "80"}, customer="acme")
    (row,) = world.rows("SELECT no, id FROM customers WHERE tenant_id = %(id)s", id=world.tenant_id)
    acme = replace(world.subscribe(), customer_no=row["no"])
    world.use(acme, ("2026-01-05", 700), ("2026-02-05", 959))
    look(world, "2026-02-06")
    assert told(world) == []
    world.use(acme, ("2026-02-05", 1))
    look(world, "2026-02-06")
    (event,) = told(world)
    assert (event["value"], event["limit"]) == ("960", "1200")


def test_customers_of_a_test_clock_are_judged_by_what_it_shows(world: World, admin: Api) -> None:
    clock = admin.post("/v1/test_clocks", {"now": "2026-05-10T00:00:00Z"})
    customer_id = add_customer(world, clock_id=clock["id"])
    (row,) = world.rows("SELECT no FROM customers WHERE id = %(id)s", id=customer_id)
    make(admin, **METER_ALERT)
    world.use(replace(world.subscribe(), customer_no=row["no"]), ("2026-05-05", 100))
    look(world, "2026-01-06")
    assert [each["period"]["start"] for each in told(world)] == ["2026-05-01T00:00:00Z"]


def test_a_deleted_alert_tells_nothing_more(world: World, admin: Api) -> None:
    subscription = world.subscribe()
    alert = make(admin, **METER_ALERT)
    for _ in range(2):
        gone = admin.http.delete(f"/v1/alerts/{alert['id']}")
        assert gone.status_code == 200
        assert gone.json()["archived_at"] is not None
    world.use(subscription, ("2026-01-05", 500))
    look(world, "2026-01-06")
    assert told(world) == []
    assert admin.get("/v1/alerts")["data"] == []
    assert (len(told(world, "alert.created")), len(told(world, "alert.deleted"))) == (1, 1)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"threshold": "1"}, "alert.invalid_subject"),
        ({"meter": METER, "feature": "f", "threshold": "1"}, "alert.invalid_subject"),
        ({"subscription": "sub_1", "period": "day", "threshold": "1"}, "alert.invalid_subject"),
        ({"meter": METER, "threshold": {}}, "alert.invalid_threshold"),
        ({"meter": METER, "threshold": {"amount": "1", "percent": "1"}}, "alert.invalid_threshold"),
        ({"meter": METER, "threshold": {"percent": "50"}}, "alert.invalid_threshold"),
        ({"feature": "f", "threshold": {"percent": "0"}}, "alert.invalid_threshold"),
        ({"meter": METER, "threshold": "-1"}, "alert.invalid_threshold"),
        ({"meter": METER, "threshold": "NaN"}, "request.invalid_field"),
        ({"meter": METER, "threshold": []}, "request.invalid_field"),
        ({"meter": "nothing", "threshold": "1"}, "meter.not_found"),
        ({"feature": "nothing", "threshold": "1"}, "feature.not_found"),
        ({"wallet": "nothing", "threshold": "1"}, "wallet.not_found"),
        ({"subscription": "nothing", "threshold": "1"}, "subscription.not_found"),
        ({"meter": METER, "threshold": "1", "customer": "nobody"}, "customer.not_found"),
    ],
)
def test_what_makes_no_alert_is_refused(admin: Api, body: dict[str, Any], code: str) -> None:
    refused = admin.post("/v1/alerts", body, status=422)
    assert refused["code"] == code
    assert code not in refused["detail"]
