"""How memory follows what is changed, counted and held, and what it says when it can't."""

import threading
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from starlette.testclient import TestClient

from infra.postgres.counters import CounterRow
from infra.postgres.entitlement_copies import load_features, terms_of
from ingestion_api.asgi import create_app
from ingestion_api.entitlements.replica import Replica
from schemas.balances import Held
from schemas.counters import CounterPart
from schemas.instants import to_micros
from tests.ingestion_api.entitlements.played_process import (
    KEY,
    WAIT_SECONDS,
    Process,
    asking,
    context_of,
    names,
    once_as_of,
    utc_now,
)


def test_a_counted_event_is_seen_and_as_of_speaks_for_it(process: Process, customer: str) -> None:
    before = utc_now()
    process.count(customer, "tokens", "2.5")
    answer = once_as_of(process, customer, before)
    assert (answer["used"], answer["remaining"]) == ("6.5", "3.5")
    assert process.knows(customer, "tokens")


def test_a_message_that_never_came_is_read_from_postgresql(process: Process, customer: str) -> None:
    process.count(customer, "tokens", "1", tell=False)
    process.teller._no += 1  # pyright: ignore[reportPrivateUsage] - a message that the broker never had
    other = next(names)
    process.post("/v1/customers", {"external_id": other})
    process.post("/v1/subscriptions", {"customer": other, "plan": "small"})
    before = utc_now()
    process.count(other, "tokens", "0", seed=True)
    assert once_as_of(process, customer, before)["used"] == "5"


def test_an_older_row_does_not_undo_a_newer_one(process: Process, customer: str) -> None:
    [row] = process.connection.execute(
        "SELECT entitlement_no, period_start FROM entitlement_counters ORDER BY entitlement_no DESC LIMIT 1"
    ).fetchall()
    process.count(customer, "tokens", "1")
    late = CounterRow(**row, meter_revision=1, part=CounterPart(Decimal(4)))
    before = utc_now()
    process.teller.tell([late], seq=1, until=dict.fromkeys(range(process.settings.events_partitions), before))
    assert once_as_of(process, customer, before)["used"] == "5"


def test_whoever_changes_something_sees_it_in_the_next_check(
    process: Process, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_terms_of(*asked: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return terms_of(*asked, **options)

    monkeypatch.setattr("ingestion_api.entitlements.replica.terms_of", slow_terms_of)
    subscription = process.http.get("/v1/subscriptions", params={"customer": customer}).json()["data"][0]["id"]
    for plan, limit in (("large", "1000.5"), ("small", "10")) * 2:
        process.post(f"/v1/subscriptions/{subscription}/change", {"plan": plan, "at": "now"}, 200)
        assert process.ask(customer, "tokens")["limit"] == limit
    process.post(f"/v1/subscriptions/{subscription}/cancel", {"at": "now"}, 200)
    assert process.ask(customer, "sso")["reason"] == "subscription_inactive"


def test_whoever_changes_a_feature_is_not_answered_from_before(
    process: Process, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught_up = threading.Event()

    def late_load_features(*asked: Any, **options: Any) -> Any:
        assert caught_up.wait(WAIT_SECONDS)
        return load_features(*asked, **options)

    process.wait_until_known(customer, "tokens")
    monkeypatch.setattr("ingestion_api.entitlements.replica.load_features", late_load_features)
    try:
        changed = process.http.patch("/v1/features/tokens", json={"on_unknown": "open"})
        assert changed.status_code == 200, changed.text
        assert not process.knows(customer, "tokens"), "memory has not taken it in: PostgreSQL is asked"
    finally:
        caught_up.set()
    process.wait_until_known(customer, "tokens")
    process.http.patch("/v1/features/tokens", json={"on_unknown": "closed"})


def test_a_change_by_another_process_is_followed(process: Process, customer: str) -> None:
    with process.connection.transaction():
        process.connection.execute(
            "UPDATE entitlements SET limit_quantity = 77 FROM customers c, features f WHERE c.id = customer_id"
            " AND f.id = feature_id AND c.external_id = %s AND f.key = 'tokens'",
            (customer,),
        )
    deadline = time.monotonic() + WAIT_SECONDS
    while process.ask(customer, "tokens")["limit"] != "77":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.knows(customer, "tokens")


def test_how_a_meter_counts_now_is_known(process: Process) -> None:
    process.post("/v1/meters", {"key": "peak", "event_type": "m", "aggregation": "sum", "value": "$.n"})
    feature = process.post("/v1/features", {"key": "machines", "type": "metered", "meter": "peak"})
    customer = process.post("/v1/customers", {"external_id": next(names)})
    process.post(f"/v1/customers/{customer['id']}/entitlements", {"feature": "machines", "limit": "5"})
    book, pair, deadline = process.replica.book, (customer["id"], feature["id"]), time.monotonic() + WAIT_SECONDS
    for aggregation in ("sum", "max"):
        process.connection.execute(
            "UPDATE meters SET revision = revision + 1, aggregation = %s WHERE key = 'peak'", (aggregation,)
        )
        while [row["aggregation"] for row in book.rows(pair, utc_now())] != [aggregation]:
            assert time.monotonic() < deadline, "the change was never seen"
            time.sleep(0.02)


def test_what_is_held_is_asked_of_postgresql(process: Process, customer: str) -> None:
    row = process.connection.execute(
        "SELECT c.id AS customer, f.id AS feature FROM customers c, features f WHERE c.external_id = %s AND f.key = %s",
        (customer, "tokens"),
    ).fetchone()
    assert row is not None
    until = to_micros(utc_now() + timedelta(seconds=1))
    process.replica.mark_held(Held(keys=[(row["customer"], row["feature"])], until=until))
    assert not process.knows(customer, "tokens")
    process.wait_until_known(customer, "tokens")


@pytest.mark.parametrize("state", ["held", "committed"])
def test_a_hold_that_nobody_told_of_is_read_from_postgresql(
    process: Process, customer: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is held; one that was committed long ago, and is still not counted."""
    monkeypatch.setattr("ingestion_api.entitlements.replica.HOLDS_EVERY", timedelta(milliseconds=100))
    made = process.post("/v1/entitlements/reserve", {"customer": customer, "feature": "tokens", "quantity": "1"})
    with process.connection.transaction():
        if state == "committed":
            process.connection.execute(
                "UPDATE reservations SET state = 'committed', committed_at = now() + interval '1 hour',"
                " expires_at = expires_at - interval '1 hour' WHERE id = %s",
                (made["id"],),
            )
    process.replica._held.clear()  # pyright: ignore[reportPrivateUsage] - as in a process that never heard of it
    deadline = time.monotonic() + WAIT_SECONDS
    while process.knows(customer, "tokens"):
        assert time.monotonic() < deadline, "the hold was never read"
        time.sleep(0.02)
    assert process.ask(customer, "tokens")["reserved"] == "1"


def test_a_process_that_starts_has_what_was_there_before(process: Process, customer: str) -> None:
    with TestClient(create_app(process.settings), headers={"authorization": f"Bearer {KEY}"}) as http:
        body = asking(customer, "tokens", None)
        assert http.post("/v1/entitlements/check", json=body).json()["used"] == "4"  # before it is live
        replica = context_of(http).replica
        deadline = time.monotonic() + WAIT_SECONDS
        while not replica.is_live:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert http.post("/v1/entitlements/check", json=body).json()["used"] == "4"


def test_what_ended_while_nobody_listened_is_forgotten(process: Process, customer: str) -> None:
    with process.connection.transaction():
        process.connection.execute("SET LOCAL session_replication_role = 'replica'")  # no trigger tells of it
        process.connection.execute(
            "DELETE FROM entitlements USING customers c WHERE c.id = customer_id AND c.external_id = %s", (customer,)
        )
    assert process.ask(customer, "tokens")["used"] == "4"
    process.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while (
        "no_entitlement" not in process.http.post("/v1/entitlements/check", json=asking(customer, "tokens", None)).text
    ):
        assert time.monotonic() < deadline, "it is still answered from memory"
        time.sleep(0.02)


def test_what_is_held_is_not_guessed_while_postgresql_is_away(
    process: Process, customer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.replica, "_store_away", True)
    assert process.knows(customer, "tokens")
    row = process.connection.execute(
        "SELECT customer_id, feature_id FROM entitlements e JOIN customers c ON c.id = customer_id"
        " JOIN features f ON f.id = feature_id WHERE c.external_id = %s AND f.key = 'tokens'",
        (customer,),
    ).fetchone()
    assert row is not None
    until = to_micros(utc_now() + timedelta(minutes=1))
    process.replica.mark_held(Held(keys=[(row["customer_id"], row["feature_id"])], until=until))
    assert not process.knows(customer, "tokens")


@pytest.mark.usefixtures("customer")
def test_more_than_fits_is_not_kept_and_nobody_goes_on_listening(process: Process) -> None:
    replica = Replica(process.settings.model_copy(update={"replica_max_entitlements": 1}))
    replica.start()
    for thread in replica._threads:  # pyright: ignore[reportPrivateUsage] - that they end is the point
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
    assert not replica.is_live
    assert len(replica.book) == 0
