"""Whether everything that was acknowledged is counted, to the digit, wherever it can be asked for, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import clickhouse_connect
import httpx2
import psycopg

from tests.long.dev import OwnDev
from tests.long.load import Load
from tests.oracle.answers import Query, answer
from tests.oracle.ledger import Ledger
from tests.oracle.rules import Filter, Meter, Path
from tests.oracle.wire import ask, change_text, list_events, meter_text, post, rfc3339, wait_built, wait_counted

TOKENS = Path(("tokens",))
METERS = (
    Meter("tokens", "llm", "sum", TOKENS, group_by=("model",)),
    Meter("calls", "llm", "count"),
    Meter("eu", "llm", "sum", TOKENS, filters=(Filter(Path(("region",)), "eq", ("eu",)),)),
    Meter("highest", "llm", "max", TOKENS, group_by=("region",)),
    Meter("mean", "llm", "avg", TOKENS),
    Meter("newest", "llm", "latest", TOKENS, group_by=("model",)),
    Meter("models", "llm", "unique_count", Path(("model",))),
    Meter("level", "llm", "weighted_sum", TOKENS, filters=(Filter(Path(("region",)), "ne", ("us",)),)),
)
#: Made, and then changed from one to the next and back, while everything is killed.
LATER = (
    Meter("later", "llm", "sum", TOKENS, group_by=("region",)),
    Meter("later", "llm", "min", TOKENS, filters=(Filter(Path(("model",)), "in", ("m1", "m2")),)),
    Meter("later", "llm", "count", group_by=("model", "region")),
)
CUSTOMERS = {"acme": ("acme-eu",), "beta": (), "gamma": ()}
LISTED_EVENTS = 5_000  # a longer list is compared in the store alone: the API's pages would take minutes


def prepare(api: httpx2.Client, ledger: Ledger, meters: Sequence[Meter] = METERS) -> None:
    """Make the customers, meters and entitlements of the load, all before the first event."""
    for meter in meters:
        post(api, "/v1/meters", meter_text(meter))
        wait_built(api, meter.key)
        ledger.set_meter(meter)
    post(api, "/v1/features", {"key": "tokens", "name": "Tokens", "type": "metered", "meter": "tokens"})
    plan = {"key": "pro", "name": "Pro", "currency": "USD", "prices": [], "entitlements": [
        {"feature": "tokens", "limit": "1000", "reset": "never", "enforcement": "hard"},
    ]}  # fmt: skip
    post(api, "/v1/plans", plan)
    start_at = rfc3339(datetime.now(UTC).replace(microsecond=0) - timedelta(days=500))
    for external_id, subjects in CUSTOMERS.items():
        customer = {"external_id": external_id, "name": external_id, "currency": "USD", "timezone": "UTC"}
        post(api, "/v1/customers", {**customer, "subjects": list(subjects)})
        post(api, "/v1/subscriptions", {"customer": external_id, "plan": "pro", "start_at": start_at})
        ledger.add_customer(external_id, subjects)


def set_meter(load: Load, api: httpx2.Client, meter: Meter) -> None:
    """Make a meter, or change the one of this key, while events keep flowing and anything may be killed."""
    is_new = meter.key not in load.ledger.meters
    if is_new:
        text, key = meter_text(meter), {"idempotency-key": f"make-{meter.key}"}
        answer = load.insist(api, "POST", "/v1/meters", text, **key)
    else:
        answer = load.insist(api, "PATCH", f"/v1/meters/{meter.key}", change_text(meter))
    assert answer is not None, load.faults
    with load.lock:
        load.ledger.set_meter(meter)


def check_exact(dev: OwnDev, api: httpx2.Client, ledger: Ledger) -> None:
    """Wait until all is counted, and compare usage, entitlements, counters and raw events with the ledger."""
    for meter in ledger.meters:
        wait_built(api, meter)
    wait_counted(api, ledger.meters)
    check_usage(api, ledger)
    check_entitlements(dev, api, ledger)
    check_events(dev, api, ledger)


def check_usage(api: httpx2.Client, ledger: Ledger) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    start = end - timedelta(days=500)
    for meter in ledger.meters.values():
        queries = [
            Query(meter.key, start, end),
            Query(meter.key, start, end, by_customer=True, group_by=meter.group_by),
            Query(meter.key, start, end, window="day", zone="America/New_York", by_customer=True),
            Query(meter.key, end - timedelta(hours=28), end - timedelta(hours=22), window="minute"),
        ]
        for query in queries:
            found, expected = ask(api, query), answer(ledger, query)
            assert found == expected, f"{query}: {difference(found, expected)}"


def difference(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> str:
    """What differs, a few lines of it."""
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    lines = [f"  {key}: {found.get(key)} instead of {expected.get(key)}" for key in keys[:10]]
    return f"{len(keys)} of {len(expected)} differ\n" + "\n".join(lines)


def check_entitlements(dev: OwnDev, api: httpx2.Client, ledger: Ledger) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    query = Query("tokens", end - timedelta(days=500), end, by_customer=True)
    expected = {row.customer: value for row, value in answer(ledger, query).items()}
    used = {
        customer: Decimal(post(api, "/v1/entitlements/check", body, status=200)["used"])
        for customer in CUSTOMERS
        if (body := {"customer": customer, "feature": "tokens"})
    }
    assert used == {customer: expected.get(customer, Decimal(0)) for customer in CUSTOMERS}
    with psycopg.connect(_address(dev, "postgres_dsn")) as connection:
        rows = connection.execute(
            "SELECT external_id, sum(used) FROM entitlement_counters JOIN entitlements ON no = entitlement_no"
            " JOIN customers c ON c.id = customer_id GROUP BY 1"
        ).fetchall()
    assert dict(rows) == used, f"counters {dict(rows)} are not what checks answer: {used}"


def check_events(dev: OwnDev, api: httpx2.Client, ledger: Ledger) -> None:
    """Every event has the one status that it must have, and nothing is there that was never sent."""
    expected = {identity: ledger.status(identity) for identity in ledger.entries}
    if len(expected) <= LISTED_EVENTS:
        found = {identity: event["status"] for identity, event in list_events(api).items()}
        assert found == expected, difference(found, expected)
    client = clickhouse_connect.get_client(dsn=_address(dev, "clickhouse_url"))
    try:
        rows = client.query(
            "SELECT source, id, count(), argMax(toString(status), change_offset) FROM"
            " (SELECT source, id, status, change_offset FROM events FINAL) GROUP BY source, id"
        ).result_rows
        originals = client.query("SELECT count() FROM events FINAL WHERE change_offset = -1").result_rows[0][0]
    finally:
        client.close()
    stored = {(source, event_id): status for source, event_id, _, status in rows}
    assert originals == len(expected), f"{originals} rows of events as they came, for {len(expected)} events"
    assert stored == expected, difference(stored, expected)


def _address(dev: OwnDev, name: str) -> str:
    return json.loads((dev.data_dir / "stack.json").read_text(encoding="utf-8"))["addresses"][name]
