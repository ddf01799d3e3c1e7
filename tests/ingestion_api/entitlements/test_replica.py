"""Checks out of memory against checks over PostgreSQL: an Idempotency-Key sends a check the ordinary way."""

import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString

import pytest
from starlette.testclient import TestClient

from flows.balances import BalanceTeller
from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.migrate import migrate
from infra.postgres.counters import CounterChange, CounterRow, SeededBy, add_to_counters, insert_counters
from infra.postgres.entitlement_copies import load_features, terms_of
from infra.postgres.pool import PgConnection, connect
from infra.settings import Settings
from ingestion_api.asgi import MeterlineApp, create_app
from ingestion_api.context import Context
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.replica import Replica
from schemas.balances import Held
from schemas.counters import CounterPart
from schemas.instants import to_micros
from tests.support.stack import fresh_databases

KEY = "mtr_key-of-the-replica-tests"
WAIT_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Process:
    """An API process over stores of its own, and a flow's part in it, played by hand."""

    http: TestClient
    replica: Replica
    connection: PgConnection
    teller: BalanceTeller
    settings: Settings
    numbers: Iterator[int]

    def post(self, path: str, body: Any, status: int = 201, **headers: str) -> Any:
        answer = self.http.post(path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def ask(self, customer: str, feature: str, quantity: str | None = None) -> Any:
        return self.post("/v1/entitlements/check", _body(customer, feature, quantity), 200)

    def ask_postgres(self, customer: str, feature: str, quantity: str | None = None) -> Any:
        name = uuid.uuid4().hex
        return self.post("/v1/entitlements/check", _body(customer, feature, quantity), 200, **{"idempotency-key": name})

    def knows(self, customer: str, feature: str) -> bool:
        """Whether memory alone has the answer."""
        context = _context_of(self.http)
        principal = context.keys.lookup(KEY)
        asked = [Ask(customer, feature, None)]
        found = self.replica.answer(
            context.stored_usage, asked, tenant_id=principal.tenant_id, tenant_no=principal.tenant_no, now=_now()
        )
        return found is not None

    def wait_until_known(self, customer: str, feature: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.knows(customer, feature):
            assert time.monotonic() < deadline, "the replica never knew"
            time.sleep(0.02)

    def count(
        self,
        customer: str,
        feature: str,
        used: str,
        *,
        start: datetime | None = None,
        tell: bool = True,
        seed: bool = False,
    ) -> None:
        """What a flow does with a batch, for one counter: that of the first period, or of the one with this start."""
        seq, now = next(self.numbers), _now()
        with self.connection.transaction():
            row = self.connection.execute(
                "SELECT e.no, e.starts_at FROM entitlements e JOIN customers c ON c.id = e.customer_id"
                " JOIN features f ON f.id = e.feature_id WHERE c.external_id = %s AND f.key = %s",
                (customer, feature),
            ).fetchone()
            assert row is not None
            change = CounterChange(
                entitlement_no=row["no"],
                period_start=start or row["starts_at"],
                meter_revision=1,
                quantity=Decimal(used),
            )
            rows: list[CounterRow]
            if seed:
                rows = insert_counters(self.connection, by=SeededBy(shard=0, shards=1), seq=seq, changes=[change])
            else:
                rows = add_to_counters(self.connection, shard=0, seq=seq, changes=[change])
            self.connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until)"
                " SELECT %s, p, 0, %s FROM generate_series(0, %s) AS p"
                " ON CONFLICT (topic, partition) DO UPDATE SET counted_until = excluded.counted_until",
                (self.settings.events_topic, now, self.settings.events_partitions - 1),
            )
        if tell:
            until = dict.fromkeys(range(self.settings.events_partitions), now)
            self.teller.tell(rows, seq=seq, until=until)


def _context_of(http: TestClient) -> Context:
    app = http.app
    assert isinstance(app, MeterlineApp)
    return app._context  # pyright: ignore[reportPrivateUsage]


def _body(customer: str, feature: str, quantity: str | None) -> dict[str, str]:
    body = {"customer": customer, "feature": feature}
    return body if quantity is None else {**body, "quantity": quantity}


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def process(stack: Settings) -> Iterator[Process]:
    settings = fresh_databases(stack).model_copy(update={"root_key": KEY, "api_key_cache_seconds": 3600})
    ensure_topics(settings)
    with closing(connect(settings.postgres_dsn)) as connection:
        store = connect_clickhouse(settings.clickhouse_url)
        migrate(connection, store)
        store.close()
        producer = Producer(settings.kafka_bootstrap, linger_ms=0, timeout_seconds=10, queued_bytes=1 << 20)
        teller = BalanceTeller(producer, settings.balances_topic, partitions=4, shard=0, shards=1)
        app = create_app(settings)
        with TestClient(app, headers={"authorization": f"Bearer {KEY}"}) as http:
            replica = _context_of(http).replica
            made = Process(http, replica, connection, teller, settings, itertools.count(1))
            _make_catalogue(made)
            yield made
        producer.close(5)


def _make_catalogue(process: Process) -> None:
    process.post("/v1/meters", {"key": "tokens", "event_type": "t", "aggregation": "sum", "value": "$.n"})
    process.post("/v1/features", {"key": "tokens", "type": "metered", "meter": "tokens"})
    process.post("/v1/features", {"key": "sso", "type": "boolean"})
    process.post("/v1/features", {"key": "beta", "type": "boolean"})
    for key, limit in (("small", "10"), ("large", "1000.5")):
        granted = [{"feature": "tokens", "limit": limit, "reset": "never"}, {"feature": "sso"}]
        process.post("/v1/plans", {"key": key, "currency": "USD", "prices": [], "entitlements": granted})


_names = (f"customer-{number}" for number in itertools.count())


@pytest.fixture
def customer(process: Process) -> str:
    """Somebody on the small plan, counted so far: 4."""
    name = next(_names)
    process.post("/v1/customers", {"external_id": name})
    process.post("/v1/subscriptions", {"customer": name, "plan": "small"})
    process.count(name, "tokens", "4", seed=True)
    process.wait_until_known(name, "tokens")
    return name


def _same(process: Process, *asked: str | None) -> Any:
    fast, slow = process.ask(*asked), process.ask_postgres(*asked)  # pyright: ignore[reportArgumentType]
    for moving in ("as_of", "lag_seconds"):
        del fast[moving], slow[moving]
    assert fast == slow
    return fast


def _once_as_of(process: Process, customer: str, instant: datetime) -> Any:
    """The first answer that speaks for all up to an instant."""
    deadline = time.monotonic() + WAIT_SECONDS
    while datetime.fromisoformat((answer := process.ask(customer, "tokens"))["as_of"]) < instant:
        assert time.monotonic() < deadline
    return answer


def test_memory_and_postgresql_give_the_same_answers(process: Process, customer: str) -> None:
    assert process.knows(customer, "tokens")
    for quantity in (None, "6", "6.000000000001", "0"):
        _same(process, customer, "tokens", quantity)
    assert _same(process, customer, "tokens", "6")["remaining"] == "6"
    assert _same(process, customer, "sso", None)["value"] is True
    assert process.ask(customer, "beta")["reason"] == "no_entitlement"
    assert process.ask(customer, "tokens")["lag_seconds"] is not None


def test_memory_and_postgresql_agree_on_what_was_given_and_what_is_carried_over(process: Process) -> None:
    name, path = next(_names), "/v1/customers/{}/entitlements"
    process.post("/v1/customers", {"external_id": name})
    terms = {"limit": "10", "reset": "year", "rollover_max": "4", "starts_at": "2020-01-01T00:00:00Z"}
    given = process.post(path.format(name), {"feature": "tokens", **terms})
    this_year = datetime(_now().year, 1, 1, tzinfo=UTC)
    last_year = this_year.replace(year=this_year.year - 1)
    process.count(name, "tokens", "5", start=this_year, seed=True)
    process.count(name, "tokens", "3", start=last_year, seed=True)
    process.wait_until_known(name, "tokens")
    for quantity in (None, "9", "9.000000000001", "0"):
        found = _same(process, name, "tokens", quantity)
    assert (found["limit"], found["rolled_over"], found["remaining"]) == ("14", "4", "9")
    process.count(name, "tokens", "4.5", start=last_year)  # a late event
    deadline = time.monotonic() + WAIT_SECONDS
    while process.ask(name, "tokens")["rolled_over"] != "2.5":
        assert time.monotonic() < deadline, "the late event was never seen"
        time.sleep(0.02)
    assert process.knows(name, "tokens")
    assert _same(process, name, "tokens", "7.5")["remaining"] == "7.5"
    process.post(path.format(name), {"feature": "sso"})
    assert process.ask(name, "sso")["value"] is True
    assert process.http.request("DELETE", f"{path.format(name)}/{given['id']}").status_code == 200
    assert process.ask(name, "tokens")["reason"] == "no_entitlement"


def test_a_counted_event_is_seen_and_as_of_speaks_for_it(process: Process, customer: str) -> None:
    before = _now()
    process.count(customer, "tokens", "2.5")
    answer = _once_as_of(process, customer, before)
    assert (answer["used"], answer["remaining"]) == ("6.5", "3.5")
    assert process.knows(customer, "tokens")


def test_a_message_that_never_came_is_read_from_postgresql(process: Process, customer: str) -> None:
    process.count(customer, "tokens", "1", tell=False)
    process.teller._no += 1  # pyright: ignore[reportPrivateUsage] - a message that the broker never had
    other = next(_names)
    process.post("/v1/customers", {"external_id": other})
    process.post("/v1/subscriptions", {"customer": other, "plan": "small"})
    before = _now()
    process.count(other, "tokens", "0", seed=True)
    assert _once_as_of(process, customer, before)["used"] == "5"


def test_an_older_row_does_not_undo_a_newer_one(process: Process, customer: str) -> None:
    [row] = process.connection.execute(
        "SELECT entitlement_no, period_start FROM entitlement_counters ORDER BY entitlement_no DESC LIMIT 1"
    ).fetchall()
    process.count(customer, "tokens", "1")
    late = CounterRow(**row, meter_revision=1, part=CounterPart(Decimal(4)))
    before = _now()
    process.teller.tell([late], seq=1, until=dict.fromkeys(range(process.settings.events_partitions), before))
    assert _once_as_of(process, customer, before)["used"] == "5"


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
    customer = process.post("/v1/customers", {"external_id": next(_names)})
    process.post(f"/v1/customers/{customer['id']}/entitlements", {"feature": "machines", "limit": "5"})
    book, pair, deadline = process.replica.book, (customer["id"], feature["id"]), time.monotonic() + WAIT_SECONDS
    for aggregation in ("sum", "max"):
        process.connection.execute(
            "UPDATE meters SET revision = revision + 1, aggregation = %s WHERE key = 'peak'", (aggregation,)
        )
        while [row["aggregation"] for row in book.rows(pair, _now())] != [aggregation]:
            assert time.monotonic() < deadline, "the change was never seen"
            time.sleep(0.02)


def test_an_answer_that_is_kept_ends_with_what_it_was_made_of(process: Process, customer: str) -> None:
    """Whatever is asked twice is answered the second time from what was kept of the first."""

    def twice(quantity: str | None = None) -> Any:
        first = _same(process, customer, "tokens", quantity)
        assert _same(process, customer, "tokens", quantity) == first
        return first

    def change(statement: LiteralString) -> None:
        with process.connection.transaction():
            process.connection.execute(statement, {"customer": customer})

    def once(reason: str, used: str | None) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while ((found := process.ask(customer, "tokens"))["reason"], found["used"]) != (reason, used):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    assert [twice(quantity)["allowed"] for quantity in (None, "6", "6.1")] == [True, True, False]
    before = _now()
    process.count(customer, "tokens", "2.5")
    _once_as_of(process, customer, before)
    assert twice()["used"] == "6.5"
    change("UPDATE meters SET revision = 2")  # of which nothing is counted
    once("within_limit", "0")
    change("UPDATE meters SET revision = 1")
    once("within_limit", "6.5")
    change(
        "UPDATE entitlements e SET ends_at = clock_timestamp() + interval '1 second' FROM customers c"
        " WHERE c.id = e.customer_id AND c.external_id = %(customer)s"
    )
    once("subscription_inactive", None)


def test_what_is_held_is_asked_of_postgresql(process: Process, customer: str) -> None:
    row = process.connection.execute(
        "SELECT c.id AS customer, f.id AS feature FROM customers c, features f WHERE c.external_id = %s AND f.key = %s",
        (customer, "tokens"),
    ).fetchone()
    assert row is not None
    until = to_micros(_now() + timedelta(seconds=1))
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


def test_plain_reservations_have_the_ordinary_routes_answers(process: Process, customer: str) -> None:
    """An Idempotency-Key sends a request the ordinary way."""
    path, moving = "/v1/entitlements/reserve", ("id", "created_at", "expires_at", "as_of", "lag_seconds")

    def reserve(quantity: str, **headers: str) -> tuple[int, str, Any]:
        body = {**_body(customer, "tokens", quantity), "ttl_seconds": 600}
        answer = process.http.post(path, json=body, headers=headers)
        found = answer.json()
        if answer.status_code == 201:
            process.post(f"/v1/reservations/{found['id']}/release", {}, 200)
        found.pop("request_id", None)
        kept = {name: value for name, value in found.items() if name not in moving}
        return answer.status_code, answer.headers["content-type"], kept

    statuses: list[int] = []
    for quantity in ("1", "6", "6.000000000001", "0.5", "0", "-1", "x"):
        plain = reserve(quantity)
        assert plain == reserve(quantity, **{"idempotency-key": uuid.uuid4().hex}), quantity
        statuses.append(plain[0])
    assert statuses == [201, 201, 409, 201, 422, 422, 422]


def test_a_bulk_of_known_and_unknown_is_one_answer(process: Process, customer: str) -> None:
    checks = [_body(customer, "tokens", "1"), _body(customer, "sso", None), _body(customer, "beta", None)]
    answer = process.post("/v1/entitlements/check", {"checks": checks}, 200)
    assert [each["reason"] for each in answer["data"]] == ["within_limit", "unlimited", "no_entitlement"]
    known = process.post("/v1/entitlements/check", {"checks": checks[:2]}, 200)
    assert [each["feature"] for each in known["data"]] == ["tokens", "sso"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "request.invalid_json"),
        (b'{"customer":"nobody","feature":"tokens"}', 404, "customer.not_found"),
        (b'{"customer":"nobody","feature":"tokens","colour":1}', 422, "request.unknown_field"),
        (b'{"customer":"nobody","feature":"tokens","quantity":"-1"}', 422, "request.invalid_field"),
        (b'{"checks":[]}', 422, "request.invalid_field"),
    ],
)
def test_what_is_not_plainly_good_has_the_ordinary_routes_answer(
    process: Process, body: bytes, status: int, code: str
) -> None:
    answer = process.http.post("/v1/entitlements/check", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_process_that_starts_has_what_was_there_before(process: Process, customer: str) -> None:
    with TestClient(create_app(process.settings), headers={"authorization": f"Bearer {KEY}"}) as http:
        body = _body(customer, "tokens", None)
        assert http.post("/v1/entitlements/check", json=body).json()["used"] == "4"  # before it is live
        replica = _context_of(http).replica
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
        "no_entitlement" not in process.http.post("/v1/entitlements/check", json=_body(customer, "tokens", None)).text
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
    until = to_micros(_now() + timedelta(minutes=1))
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
