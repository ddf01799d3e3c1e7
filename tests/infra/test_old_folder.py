"""Stores that were made by the first released tables open with all newer ones, and what is in them goes on."""

import csv
import io
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing_workflows.billing import bill_chunk
from billing_workflows.doors import Doors
from infra import migrate
from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.migrate import load_migrations
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from infra.postgres.pool import PgConnection, connect
from infra.settings import Settings
from ingestion_api.auth import new_secret, secret_sha256
from tests.support.api import Api, running_api
from tests.support.billing import EVENT_COLUMNS, instant
from tests.support.stack import fresh_databases

LAST_OLD = {"postgres": "0008", "clickhouse": "0001"}
START, FEBRUARY = instant("2026-01-01"), instant("2026-02-01")
USAGE_AT = instant("2026-01-10")

#: What the version of those tables wrote: a customer whose first fee is paid, whose usage of January is not billed yet.
OLD_ROWS = b"""
INSERT INTO tenants (id, name, created_at) VALUES ('ten_1', 'old', '2026-01-01Z');
INSERT INTO customers (id, tenant_id, external_id, name, currency, timezone, created_at)
    VALUES ('cus_1', 'ten_1', 'acme', 'Acme', 'USD', 'UTC', '2026-01-01Z');
INSERT INTO customer_subjects (tenant_id, subject, customer_id) VALUES ('ten_1', 'acme', 'cus_1');
INSERT INTO meters (id, tenant_id, key, name, event_type, aggregation, value, created_at)
    VALUES ('mtr_1', 'ten_1', 'calls', 'Calls', 'call', 'sum', '$.n', '2026-01-01Z');
INSERT INTO features (id, tenant_id, key, name, type, meter_id, created_at)
    VALUES ('fea_1', 'ten_1', 'calls', 'Calls', 'metered', 'mtr_1', '2026-01-01Z'),
           ('fea_2', 'ten_1', 'sso', 'SSO', 'boolean', NULL, '2026-01-01Z');
INSERT INTO plans (id, tenant_id, key, name, currency, created_at)
    VALUES ('pln_1', 'ten_1', 'pro', 'Pro', 'USD', '2026-01-01Z');
INSERT INTO plan_versions (plan_id, version, prices, entitlements, created_at) VALUES ('pln_1', 1,
    '[{"key": "base", "type": "fixed", "model": "flat", "amount": "49"},
      {"key": "calls", "type": "usage", "meter": "calls", "model": "per_unit", "unit_amount": "0.5"}]',
    '[{"feature": "calls", "limit": "100", "reset": "billing_period", "enforcement": "hard"},
      {"feature": "sso", "value": true}]', '2026-01-01Z');
INSERT INTO subscriptions (id, tenant_id, customer_id, plan_id, plan_version, status, currency, timezone, start_at,
        billing_anchor, alignment, billed_until, next_bill_at, created_at)
    VALUES ('sub_1', 'ten_1', 'cus_1', 'pln_1', 1, 'active', 'USD', 'UTC', '2026-01-01Z', '2026-01-01Z', 'anniversary',
        '2026-01-01Z', '2026-02-01Z', '2026-01-01Z');
INSERT INTO subscription_phases (subscription_id, no, starts_at, plan_id, plan_version, created_at)
    VALUES ('sub_1', 0, '2026-01-01Z', 'pln_1', 1, '2026-01-01Z');
INSERT INTO entitlements (tenant_id, subscription_id, customer_id, feature_id, limit_quantity, value, reset,
        enforcement, billing_period, billing_period_count, starts_at, effective_at)
    VALUES ('ten_1', 'sub_1', 'cus_1', 'fea_1', 100, NULL, 'billing_period', 'hard', 'month', 1, '2026-01-01Z',
            '2026-01-01Z'),
           ('ten_1', 'sub_1', 'cus_1', 'fea_2', NULL, 'true', NULL, NULL, 'month', 1, '2026-01-01Z', '2026-01-01Z');
INSERT INTO invoice_sequences (tenant_id, next_number) VALUES ('ten_1', 2);
INSERT INTO invoices (id, tenant_id, customer_id, subscription_id, kind, period_start, period_end, number, status,
        currency, subtotal_minor, discount_minor, tax_minor, total_minor, credits_applied_minor, amount_due_minor,
        created_at, finalized_at, due_at)
    VALUES ('inv_1', 'ten_1', 'cus_1', 'sub_1', 'subscription', '2026-01-01Z', '2026-01-01Z', 'INV-000001', 'open',
        'USD', 4900, 0, 0, 4900, 0, 4900, '2026-01-01Z', '2026-01-01Z', '2026-01-01Z');
INSERT INTO invoice_lines (invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor,
        period_start, period_end, price, explain)
    VALUES ('inv_1', 0, 'base', 'base', 1, 49, 49, 4900, '2026-01-01Z', '2026-02-01Z',
        '{"key": "base", "type": "fixed", "model": "flat", "amount": "49"}', '{}');
INSERT INTO shards (shard, next_seq) VALUES (0, 2);
"""


@pytest.fixture
def old(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Databases as the old version left them."""
    settings = fresh_databases(stack)
    with connect(settings.postgres_dsn) as connection, closing(connect_clickhouse(settings.clickhouse_url)) as store:
        with monkeypatch.context() as former:
            former.setattr(migrate, "load_migrations", _old_migrations)
            migrate.migrate(connection, store)
        _write(connection, store, settings)
    return settings


def _old_migrations(store: str) -> list[migrate.Migration]:
    return [each for each in load_migrations(store) if each.name[:4] <= LAST_OLD[store]]


def _write(connection: PgConnection, store: Client, settings: Settings) -> None:
    connection.execute(OLD_ROWS)
    for partition in range(settings.events_partitions):
        connection.execute(
            "INSERT INTO shard_offsets (topic, partition, shard, stored_until) VALUES (%s, %s, 0, %s)",
            (settings.events_topic, partition, FEBRUARY + timedelta(days=2)),
        )
    identity = (7).to_bytes(16, "big")
    place = [1, identity, 0, 0, 0, 0, 1, USAGE_AT, USAGE_AT, "api", "e"]
    store.insert("events", [[*place, "call", "acme", '{"n":60}', "", 1, "counted", ""]], column_names=EVENT_COLUMNS)
    store.insert("usage_minutes", [[1, 1, 1, USAGE_AT, [], 0, 1, 1, Decimal(60)]])


def test_a_check_an_invoice_and_an_export_go_on_where_the_old_version_stopped(old: Settings) -> None:
    with running_api(old) as operator:
        secret = new_secret()
        with operator.database.transaction() as connection:
            connection.execute(
                "INSERT INTO api_keys (id, tenant_id, name, role, secret_sha256, created_at)"
                " VALUES ('key_1', 'ten_1', 'k', 'admin', %s, %s)",
                (secret_sha256(secret), START),
            )
        api = Api(settings=old, database=operator.database, http=operator.with_key(secret))
        check_entitlements(api)
        bill(api, old)
        check_invoices(api)
        with operator.database.transaction() as connection:
            assert find_broken(connection) == {}


def check_entitlements(api: Api) -> None:
    found = api.post("/v1/entitlements/check", {"customer": "acme", "feature": "sso"}, status=200)
    assert found["allowed"] is True
    found = api.post("/v1/entitlements/check", {"customer": "acme", "feature": "calls"}, status=200)
    assert (found["allowed"], found["limit"]) == (True, "100")


def bill(api: Api, settings: Settings) -> None:
    with closing(connect_clickhouse(settings.clickhouse_url)) as store:
        doors = Doors(
            database=api.database,
            clickhouse=store,
            grace=timedelta(hours=1),
            chunk_size=100,
            events_topic=settings.events_topic,
            events_partitions=settings.events_partitions,
        )
        assert bill_chunk(doors, ["sub_1"], Moment(now=datetime(2026, 2, 2, tzinfo=UTC))).invoices == 1


def check_invoices(api: Api) -> None:
    first, new = sorted(api.get("/v1/invoices")["data"], key=lambda invoice: str(invoice["number"]))
    assert (new["number"], new["total"], new["status"]) == ("INV-000002", "79.00", "open")
    assert {line["key"]: line["amount"] for line in new["lines"]} == {"base": "49.00", "calls": "30.00"}
    paid = api.post(f"/v1/invoices/{first['id']}/pay", {}, status=200)
    assert (paid["number"], paid["status"]) == ("INV-000001", "paid")
    text = api.http.get(
        "/v1/exports/invoice_lines", params={"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
    ).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sorted((row["invoice_number"], row["key"], row["amount"]) for row in rows) == [
        ("INV-000001", "base", "49.00"),
        ("INV-000002", "base", "49.00"),
        ("INV-000002", "calls", "30.00"),
    ]
