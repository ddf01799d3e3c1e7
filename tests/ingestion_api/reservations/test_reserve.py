from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from infra.postgres.reservations import record_commit
from ingestion_api.reservations import batches, routes
from schemas.instants import format_instant, parse_instant
from tests.ingestion_api.entitlements.test_checks import NOW, PERIOD, acme, check, count
from tests.support.api import Api

__all__ = ["acme"]

RESERVE = "/v1/entitlements/reserve"


@pytest.fixture
def counted(acme: Api) -> Api:
    """The same customer, who has used 300 of the 1,000 tokens, and 8 of 10 calls."""
    count(acme, "tokens", PERIOD["start"], "300")
    count(acme, "calls", "2026-01-01T05:00:00Z", "8")
    return acme


def instant_after(seconds: float) -> str:
    return format_instant(parse_instant(NOW) + timedelta(seconds=seconds))


@contextmanager
def later(api: Api, seconds: float) -> Generator[None]:
    with api.at(instant_after(seconds)):
        yield


def reserve(api: Api, quantity: str = "100", *, status: int = 201, after: float = 0, **body: Any) -> Any:
    with later(api, after):
        return api.post(RESERVE, {"customer": "acme", "feature": "tokens", "quantity": quantity, **body}, status=status)


def act(api: Api, reservation: Any, action: str, *, status: int = 200, after: float = 1, **body: Any) -> Any:
    with later(api, after):
        return api.post(f"/v1/reservations/{reservation['id']}/{action}", body, status=status)


def reserved(api: Api, after: float = 0) -> Any:
    return check(api, "tokens", at=instant_after(after))["reserved"]


@contextmanager
def flow_has_counted_until(api: Api, instant: str) -> Generator[None]:
    """As flows write it down, a row a partition."""
    with api.database.transaction() as connection:
        for partition in range(api.settings.events_partitions):
            connection.execute(
                "INSERT INTO shard_offsets (topic, partition, shard, counted_until) VALUES (%s, %s, 0, %s)"
                " ON CONFLICT (topic, partition) DO UPDATE SET counted_until = excluded.counted_until",
                (api.settings.events_topic, partition, instant),
            )
    try:
        yield
    finally:
        with api.database.transaction() as connection:
            connection.execute("DELETE FROM shard_offsets WHERE topic = %s", (api.settings.events_topic,))


def test_a_reservation_takes_of_the_limit_and_says_what_is_left(counted: Api) -> None:
    made = reserve(counted, "100.5", ttl_seconds=30, metadata={"job": "7"})
    assert made["id"].startswith("rsv_")
    assert (made["object"], made["status"], made["quantity"]) == ("reservation", "held", "100.5")
    assert (made["customer"], made["feature"], made["metadata"]) == ("acme", "tokens", {"job": "7"})
    assert (made["allowed"], made["reason"], made["limit"]) == (True, "within_limit", "1000")
    assert (made["used"], made["reserved"], made["remaining"]) == ("300", "100.5", "599.5")
    assert (made["created_at"], made["expires_at"]) == (NOW, "2026-03-10T12:00:30Z")
    assert made["period"] == PERIOD
    found = check(counted, "tokens", quantity="600")
    assert (found["reserved"], found["remaining"], found["allowed"]) == ("100.5", "599.5", False)
    with counted.at(NOW):
        listed = {view["feature"]: view for view in counted.get("/v1/customers/acme/entitlements")["data"]}
        again = counted.get(f"/v1/reservations/{made['id']}")
    assert (listed["tokens"]["reserved"], listed["tokens"]["remaining"]) == ("100.5", "599.5")
    assert again == {name: value for name, value in made.items() if name in again}


def test_a_hard_limit_is_reached_exactly_and_never_passed(counted: Api) -> None:
    reserve(counted, "699.999999999999")
    problem = reserve(counted, "0.000000000002", status=409)
    assert problem["code"] == "entitlement.limit_exceeded"
    assert "0.000000000001 are left" in problem["detail"]
    assert reserve(counted, "0.000000000001")["remaining"] == "0"
    assert check(counted, "tokens")["reason"] == "limit_exceeded"


def test_a_soft_limit_gives_it_and_tells(counted: Api) -> None:
    assert reserve(counted, "2", feature="calls")["reason"] == "within_limit"
    over = reserve(counted, "5", feature="calls")
    assert (over["allowed"], over["reason"], over["overage"]) == (True, "soft_limit_exceeded", "5")


def test_release_gives_back_at_once_and_once(counted: Api) -> None:
    made = reserve(counted)
    first = act(counted, made, "release")
    assert (first["status"], first["ended_at"]) == ("released", "2026-03-10T12:00:01Z")
    assert act(counted, made, "release", after=5) == first
    assert reserved(counted, 2) == "0"
    assert act(counted, made, "commit", status=409)["code"] == "reservation.released"


def test_what_has_expired_counts_in_no_answer_before_anything_tidied_it(counted: Api) -> None:
    made = reserve(counted, "700", ttl_seconds=10)
    assert reserved(counted, 9.999) == "700"
    assert reserved(counted, 10) == "0"
    with later(counted, 10):
        found = counted.get(f"/v1/reservations/{made['id']}")
        listed = counted.get("/v1/customers/acme/entitlements")["data"]
    assert (found["status"], found["ended_at"]) == ("expired", made["expires_at"])
    assert {view["reserved"] for view in listed if view["feature"] == "tokens"} == {"0"}
    assert act(counted, made, "commit", after=10, status=409)["code"] == "reservation.expired"
    assert act(counted, made, "release", after=10)["status"] == "expired"
    assert reserve(counted, "700", after=10)["remaining"] == "0"


def test_a_clock_that_goes_backwards_brings_nothing_back(counted: Api) -> None:
    made = reserve(counted, "700", ttl_seconds=10)
    reserve(counted, "700", after=10)  # writes down that the first has expired
    assert reserve(counted, "1", after=-60, status=409)["code"] == "entitlement.limit_exceeded"
    assert act(counted, made, "commit", after=-60, status=409)["code"] == "reservation.expired"


def test_a_committed_reservation_holds_until_everything_before_the_commit_is_counted(counted: Api) -> None:
    made = reserve(counted, ttl_seconds=5)
    committed = act(counted, made, "commit", after=1)
    assert (committed["status"], committed["committed_at"]) == ("committed", "2026-03-10T12:00:01Z")
    assert act(counted, made, "commit", after=2) == committed
    assert act(counted, made, "release", status=409)["code"] == "reservation.committed"
    assert reserved(counted, 3_600) == "100"  # it does not expire
    with flow_has_counted_until(counted, "2026-03-10T12:00:01Z"):
        assert reserved(counted, 60) == "100"
    with flow_has_counted_until(counted, "2026-03-10T12:00:01.000001Z"):
        assert reserved(counted, 60) == "0"
        assert reserve(counted, "700", after=61)["remaining"] == "0"
    with later(counted, 61):
        assert counted.get(f"/v1/reservations/{made['id']}")["status"] == "settled"
    assert act(counted, made, "commit", after=62)["status"] == "settled"
    assert act(counted, made, "release", after=62, status=409)["code"] == "reservation.settled"


def test_what_a_commit_was_begun_of_holds_on_until_its_event_would_be_counted(counted: Api) -> None:
    made = reserve(counted, "700", ttl_seconds=60)
    with counted.database.transaction() as connection:  # as a process that was killed between broker and answer left it
        record_commit(
            connection, reservation_id=made["id"], source="api", event_id="e-1", held_until=parse_instant(NOW)
        )
    with flow_has_counted_until(counted, "2026-03-10T12:01:00Z"):
        assert reserved(counted, 3_600) == "700"
        assert reserve(counted, "1", after=3_600, status=409)["code"] == "entitlement.limit_exceeded"
        with later(counted, 3_600):
            assert counted.get(f"/v1/reservations/{made['id']}")["status"] == "expired"
    with flow_has_counted_until(counted, "2026-03-10T12:01:00.000001Z"):
        assert reserved(counted, 59) == "700"
        assert reserved(counted, 60) == "0"
        assert reserve(counted, "700", after=60)["remaining"] == "0"


def test_what_a_commit_was_begun_of_is_not_committed_without_its_event(counted: Api) -> None:
    """The event may still be on its way to the log, where the counters have passed a commit of now."""
    made = reserve(counted, "700", ttl_seconds=60)
    with counted.database.transaction() as connection:
        record_commit(
            connection, reservation_id=made["id"], source="api", event_id="e-1", held_until=parse_instant(NOW)
        )
    assert act(counted, made, "commit", status=409)["code"] == "reservation.already_committed"
    with flow_has_counted_until(counted, "2026-03-10T12:00:30Z"):
        assert reserved(counted, 30) == "700"
        assert reserve(counted, "700", after=30, status=409)["code"] == "entitlement.limit_exceeded"


def test_only_what_is_metered_and_adds_up_can_be_reserved(counted: Api) -> None:
    for feature in ("sso", "region"):
        problem = reserve(counted, feature=feature, status=422)
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("entitlement.not_metered", "/feature")
    for aggregation, code in (
        *((each, "entitlement.not_reservable") for each in ("max", "min", "avg", "latest", "weighted_sum")),
        *((each, "entitlement.no_entitlement") for each in ("sum", "unique_count")),
    ):
        meter = {"key": aggregation, "event_type": "x", "aggregation": aggregation, "value": "$.x"}
        counted.post("/v1/meters", meter)
        counted.post("/v1/features", {"key": aggregation, "type": "metered", "meter": aggregation})
        status = 422 if code.endswith("able") else 409
        assert reserve(counted, feature=aggregation, status=status)["code"] == code


@pytest.fixture
def seats(counted: Api) -> str:
    """The reference of a customer's entitlement to 10 different users, whom a unique count tells apart."""
    counted.post("/v1/meters", {"key": "users", "event_type": "u", "aggregation": "unique_count", "value": "$.u"})
    counted.post("/v1/features", {"key": "seats", "type": "metered", "meter": "users"})
    with counted.at(PERIOD["start"]):
        counted.post("/v1/customers/acme/entitlements", {"feature": "seats", "limit": "10"})
    return "seats"


def test_of_what_is_counted_in_whole_numbers_no_part_is_reserved(counted: Api, seats: str) -> None:
    counted.post("/v1/meters", {"key": "requests", "event_type": "u", "aggregation": "count"})
    counted.post("/v1/features", {"key": "requests", "type": "metered", "meter": "requests"})
    for feature in (seats, "requests"):
        problem = reserve(counted, "1.5", feature=feature, status=422)
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("entitlement.not_whole", "/quantity")
    count(counted, seats, PERIOD["start"], "3")
    assert reserve(counted, "2.000", feature=seats)["remaining"] == "5"
    assert reserve(counted, f"{10**30}", feature=seats, status=409)["code"] == "entitlement.limit_exceeded"


def test_what_flows_have_given_up_to_count_is_refused_at_once_and_checks_measure_it(counted: Api, seats: str) -> None:
    count(counted, seats, PERIOD["start"], "7")
    with counted.database.transaction() as connection:
        connection.execute(
            "UPDATE entitlement_counters SET is_stale = true WHERE entitlement_no = (SELECT max(no) FROM entitlements)"
        )
    with counted.at(NOW):
        body = {"customer": "acme", "feature": seats, "quantity": "1"}
        given = [counted.http.post(RESERVE, json=body, headers={"idempotency-key": "given-up"}) for _ in range(2)]
    assert [(each.status_code, each.json()["code"]) for each in given] == [(409, "entitlement.not_counted")] * 2
    assert check(counted, seats)["used"] == "0", "nothing is stored"


def test_without_an_entitlement_or_a_running_subscription_nothing_is_reserved(counted: Api) -> None:
    counted.post("/v1/features", {"key": "other", "type": "metered", "meter": "tokens"})
    assert reserve(counted, feature="other", status=409)["code"] == "entitlement.no_entitlement"
    early = -100 * 86_400
    assert reserve(counted, after=early, status=409)["code"] == "entitlement.subscription_inactive"


def test_an_unlimited_feature_is_reserved_without_end(acme: Api) -> None:
    entitlements = [{"feature": "tokens", "limit": None}]
    acme.post("/v1/plans", {"key": "max", "currency": "USD", "prices": [], "entitlements": entitlements})
    acme.post("/v1/customers", {"external_id": "rich"})
    with acme.at("2026-03-01T05:00:00Z"):
        acme.post("/v1/subscriptions", {"customer": "rich", "plan": "max"})
    with acme.database.transaction() as connection:
        connection.execute(
            "INSERT INTO entitlement_counters (entitlement_no, period_start, shard, used, version)"
            " SELECT max(no), '2026-03-01T05:00:00Z', 0, 5, 1 FROM entitlements"
        )
    made = reserve(acme, "99999999999999999999999999", customer="rich")
    assert (made["reason"], made["limit"], made["remaining"]) == ("unlimited", None, None)


def test_a_period_that_no_flow_counts_yet_is_not_guessed(acme: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "AGAIN_SECONDS", 0.1)
    with acme.at(NOW):
        body = {"customer": "acme", "feature": "tokens", "quantity": "1"}
        response = acme.http.post(RESERVE, json=body, headers={"idempotency-key": "soon"})
        assert (response.status_code, response.json()["code"]) == (503, "entitlement.not_ready")
        assert int(response.headers["retry-after"]) > 0
        count(acme, "tokens", PERIOD["start"], "999")
        assert acme.http.post(RESERVE, json=body, headers={"idempotency-key": "soon"}).status_code == 201


def test_a_key_replays_the_first_answer_and_reserves_once(counted: Api) -> None:
    with counted.at(NOW):
        body = {"customer": "acme", "feature": "tokens", "quantity": "600"}
        first = counted.http.post(RESERVE, json=body, headers={"idempotency-key": "k"})
        again = counted.http.post(RESERVE, json=body, headers={"idempotency-key": "k"})
        refused = counted.http.post(RESERVE, json=body, headers={"idempotency-key": "other"})
        other = counted.http.post(RESERVE, json={**body, "quantity": "1"}, headers={"idempotency-key": "k"})
        release = f"/v1/reservations/{first.json()['id']}/release"
        assert counted.http.post(release, json={}, headers={"idempotency-key": "r"}).status_code == 200
        still = counted.http.post(RESERVE, json=body, headers={"idempotency-key": "other"})
        same = counted.http.post(RESERVE, json=body, headers={"idempotency-key": "k"})
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert (refused.status_code, other.status_code) == (409, 409)
    assert (refused.json()["code"], other.json()["code"]) == ("entitlement.limit_exceeded", "idempotency.conflict")
    assert (still.status_code, still.content) == (409, refused.content)
    assert same.content == first.content
    assert reserved(counted) == "0"


@pytest.mark.parametrize(
    "body",
    [
        {"quantity": "0"},
        {"quantity": "-1"},
        {"quantity": "NaN"},
        {"quantity": "1e400"},
        {"quantity": "0.0000000000001"},
        {"quantity": None},
        {"quantity": True},
        {"ttl_seconds": 0},
        {"ttl_seconds": 86_401},
        {"ttl_seconds": 10**30},
        {"ttl_seconds": "60"},
        {"ttl_seconds": 1.5},
        {"customer": ""},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_body_that_means_nothing_is_refused(counted: Api, body: dict[str, Any]) -> None:
    full = {"customer": "acme", "feature": "tokens", "quantity": "1", **body}
    problem = counted.post(RESERVE, full, status=422)
    assert problem["errors"][0]["pointer"] == f"/{next(iter(body))}"


def test_reservations_need_a_key_that_may_check(counted: Api) -> None:
    made = reserve(counted)
    path = f"/v1/reservations/{made['id']}"
    for role, statuses in (("check", (201, 200, 200)), ("read", (403, 200, 403)), ("ingest", (403, 403, 403))):
        client = counted.with_key(counted.post("/v1/api_keys", {"name": role, "role": role})["secret"])
        with counted.at(NOW):
            body = {"customer": "acme", "feature": "tokens", "quantity": "1"}
            found = (
                client.post(RESERVE, json=body).status_code,
                client.get(path).status_code,
                client.post(f"{path}/commit", json={}).status_code,
            )
        assert found == statuses, role


def test_another_tenants_reservation_is_not_found(counted: Api, operator: Api) -> None:
    made = reserve(counted)
    other = operator.new_tenant()
    for action in ("commit", "release"):
        assert act(other, made, action, status=404)["code"] == "reservation.not_found"
    assert other.get(f"/v1/reservations/{made['id']}", status=404)["code"] == "reservation.not_found"
    assert reserved(counted) == "100"


def test_the_row_of_holds_is_the_sum_of_what_is_held(counted: Api) -> None:
    first, second, third = (reserve(counted, quantity) for quantity in ("1", "2", "4"))
    reserve(counted, "8", ttl_seconds=1)
    act(counted, first, "release")
    act(counted, second, "commit")
    reserve(counted, "16", after=2)
    with counted.database.transaction() as connection:
        [hold] = connection.execute(
            "SELECT h.reserved, h.version, (SELECT sum(quantity) FROM reservations r WHERE r.customer_id ="
            " h.customer_id AND r.feature_id = h.feature_id AND state IN ('held', 'committed')) AS total"
            " FROM entitlement_holds h JOIN customers c ON c.id = h.customer_id JOIN reservations r2"
            " ON r2.customer_id = c.id WHERE r2.id = %s",
            (third["id"],),
        ).fetchall()
    assert (hold["reserved"], hold["total"], hold["version"]) == (Decimal(22), Decimal(22), 7)


def test_old_reservations_are_forgotten_unless_they_hold(counted: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, committed = reserve(counted, "1", ttl_seconds=1), reserve(counted, "2")
    act(counted, committed, "commit")
    monkeypatch.setattr(batches, "SWEEP_SECONDS", 0)
    for _ in range(2):  # the second one is decided on when the first one has swept
        reserve(counted, "3", after=2)
    assert counted.get(f"/v1/reservations/{ended['id']}")["status"] == "expired"
    since_made = parse_instant(NOW) - datetime.now(UTC)  # ids have the real time
    monkeypatch.setattr(batches, "KEPT", since_made - timedelta(minutes=1))
    for _ in range(2):
        reserve(counted, "3", after=2)
    assert counted.http.get(f"/v1/reservations/{ended['id']}").status_code == 404
    assert counted.get(f"/v1/reservations/{committed['id']}")["status"] == "committed"


def test_who_waits_too_long_is_told_and_what_had_no_turn_by_then_takes_nothing(
    counted: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(counted, "1")
    with monkeypatch.context() as patch, counted.database.transaction() as connection:
        patch.setattr(routes, "MAX_WAIT_SECONDS", 0.2)
        connection.execute("SELECT FROM entitlement_holds FOR UPDATE")
        for quantity in ("20", "300"):  # whose transaction waits for the lock, and who waits for a transaction
            assert reserve(counted, quantity, status=503)["code"] == "entitlement.overloaded"
    assert reserve(counted, "4")["reserved"] == "25"


def test_a_fault_after_a_decision_leaves_nobody_without_a_turn(counted: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(batches, "SWEEP_SECONDS", 0)
    monkeypatch.setattr(batches, "sweep", fail)
    assert [reserve(counted, "1")["reserved"] for _ in range(3)] == ["1", "2", "3"]
