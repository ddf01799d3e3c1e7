"""POST /v1/events/void and /replay: who may, what they refuse, and what is said while nothing is carried out."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from infra.kafka.changes import ChangeLog
from tests.infra.clickhouse.rows import StoredEvent
from tests.ingestion_api.queries.conftest import Tenant

NOON = datetime.fromisoformat("2026-03-07T12:00:30Z")


@pytest.fixture
def stored(tenant: Tenant) -> Tenant:
    """One event that counts, one that is voided, one that is quarantined."""
    acme = tenant.customers["acme"]
    counted = StoredEvent(id="counted", customer_no=acme, occurred_at=NOON, type="call", data="{}")
    voided = replace(counted, id="voided", offset=1)
    unknown = replace(counted, id="who", offset=2, customer_no=0, status="quarantined", code="event.unknown_subject")
    tenant.store([counted, voided, unknown])
    tenant.store([voided.taken_back(change_offset=9)], seq=2)
    return tenant


@pytest.fixture
def without_broker(stored: Tenant) -> Iterator[Tenant]:
    """The same while no broker is there."""
    state: Any = stored.api.http.app
    context = state.state.context
    away = ChangeLog("127.0.0.1:9", "nowhere", partitions=4, timeout_seconds=1)
    state.state.context = replace(context, changes=away)
    yield stored
    state.state.context = context


def test_a_voided_event_is_answered_as_it_is(without_broker: Tenant) -> None:
    event = without_broker.api.post("/v1/events/void", {"id": "voided"}, status=200)
    assert (event["id"], event["status"], event["trace"][-1]["step"]) == ("voided", "voided", "voided")


@pytest.mark.parametrize(
    ("path", "body"),
    [("void", {"id": "counted"}), ("void", {"events": [{"id": "counted"}]}), ("replay", {}), ("replay", None)],
)
def test_without_a_broker_it_says_so_and_leaves_the_key_free(
    without_broker: Tenant, path: str, body: dict[str, Any] | None
) -> None:
    for _ in range(2):
        answer = without_broker.api.http.post(
            f"/v1/events/{path}", json=body, headers={"idempotency-key": f"key-{path}"}
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "broker.unavailable")
        assert int(answer.headers["retry-after"]) >= 1


@pytest.fixture
def all_stored(without_broker: Tenant) -> Iterator[Tenant]:
    """The same when all that was acknowledged is stored, and with events of other sources."""
    api = without_broker.api
    event = StoredEvent(id="theirs", customer_no=0, occurred_at=NOON, type="call", data="{}", source="svc", offset=5)
    both = replace(event, id="both", offset=6)
    without_broker.store([event, both, replace(both, source="more", offset=7)], seq=3)
    with api.database.transaction() as connection:
        connection.execute(
            "INSERT INTO shard_offsets (topic, partition, shard, counted_until, stored_until)"
            " SELECT %s, n, 0, '2026-03-12T00:00:00Z', '2026-03-12T00:00:00Z' FROM generate_series(0, %s) AS n",
            (api.settings.events_topic, api.settings.events_partitions - 1),
        )
    with api.at("2026-03-11T00:00:00Z"):
        yield without_broker
    with api.database.transaction() as connection:
        connection.execute("DELETE FROM shard_offsets")


def test_an_event_that_only_other_sources_have_is_not_said_to_be_missing(all_stored: Tenant) -> None:
    api = all_stored.api
    problem = api.post("/v1/events/void", {"id": "theirs"}, status=404)
    assert (problem["code"], "name the source" in problem["detail"]) == ("event.not_found", True)
    assert api.post("/v1/events/void", {"id": "both"}, status=422)["code"] == "event.ambiguous"
    assert "name the source" not in api.post("/v1/events/void", {"id": "none"}, status=404)["detail"]
    assert "name the source" not in api.post("/v1/events/void", {"id": "theirs", "source": "api"}, status=404)["detail"]


def test_many_voids_are_answered_in_their_order_each_event_or_why_there_is_none(all_stored: Tenant) -> None:
    names = [{"id": "none"}, {"id": "voided"}, {"id": "theirs"}, {"id": "x", "source": "svc"}, {"id": "voided"}]
    answer = all_stored.api.post("/v1/events/void", {"events": names}, status=200)
    data = answer.pop("data")
    assert answer == {"object": "list", "has_more": False, "next_cursor": None}
    assert [(each["id"], each.get("status"), each.get("code")) for each in data] == [
        ("none", None, "event.not_found"), ("voided", "voided", None), ("theirs", None, "event.not_found"),
        ("x", None, "event.not_found"), ("voided", "voided", None),
    ]  # fmt: skip
    assert ["name the source" in data[n]["detail"] for n in (0, 2, 3)] == [True, True, False]
    assert (data[3].keys(), data[3]["source"]) == ({"id", "source", "code", "detail"}, "svc")


def test_of_many_voids_none_is_done_while_one_of_the_events_may_be_on_its_way(without_broker: Tenant) -> None:
    names = [{"id": "counted"}, {"id": "none"}]
    problem = without_broker.api.post("/v1/events/void", {"events": names}, status=503)
    assert problem["code"] == "usage.behind"


def test_a_key_that_was_used_for_another_void_is_refused_before_anything_happens(without_broker: Tenant) -> None:
    headers = {"idempotency_key": "one"}
    without_broker.api.post("/v1/events/void", {"id": "voided"}, status=200, **headers)
    problem = without_broker.api.post("/v1/events/void", {"id": "counted"}, status=409, **headers)
    assert problem["code"] == "idempotency.conflict"


def test_an_event_that_may_still_be_on_its_way_is_not_said_to_be_missing(tenant: Tenant) -> None:
    answer = tenant.api.http.post("/v1/events/void", json={"id": "none"})
    assert (answer.status_code, answer.json()["code"]) == (503, "usage.behind")
    assert int(answer.headers["retry-after"]) >= 1


def test_another_source_is_another_event(stored: Tenant) -> None:
    stored.api.post("/v1/events/void", {"id": "voided", "source": "other"}, status=503)


@pytest.mark.parametrize("role", ["ingest", "read", "check"])
def test_senders_may_void_and_only_admins_replay(stored: Tenant, role: str) -> None:
    secret = stored.api.post("/v1/api_keys", {"name": role, "role": role})["secret"]
    client = stored.api.with_key(secret)
    assert client.post("/v1/events/replay", json={}).status_code == 403
    voided = client.post("/v1/events/void", json={"id": "voided"})
    assert voided.status_code == (200 if role == "ingest" else 403)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [("void", {}, "/id"), ("void", {"id": ""}, "/id"), ("void", {"id": 1}, "/id"), ("void", {"id": "x" * 513}, "/id"),
     ("void", {"id": "a", "source": None}, "/source"), ("void", {"id": "a", "sauce": "b"}, "/sauce"),
     ("void", {"id": "a", "events": [{"id": "b"}]}, "/id"),
     ("void", {"source": "s", "events": [{"id": "b"}]}, "/source"),
     ("void", {"events": []}, "/events"), ("void", {"events": [{"id": "a"}] * 1001}, "/events"),
     ("void", {"events": [{"id": "a"}, {"id": ""}]}, "/events/1/id"), ("void", {"events": None}, "/id"),
     ("void", {"events": [{"id": "a", "sauce": "b"}]}, "/events/0/sauce"),
     ("replay", {"code": ""}, "/code"), ("replay", {"code": "event.invalid_valu"}, "/code"),
     ("replay", {"from": 1}, "/from"), ("replay", {"to": "never"}, "/to"),
     ("replay", {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "/to"),
     ("replay", {"start": "2026-01-02T00:00:00Z"}, "/start"), ("replay", {"starting_after": "x"}, "/starting_after"),
     ("replay", {"from": "0001-01-01T00:00:00+23:59"}, "/from")],
)  # fmt: skip
def test_a_wrong_body_is_refused_where_it_is_wrong(api: Any, path: str, body: dict[str, Any], pointer: str) -> None:
    problem = api.post(f"/v1/events/{path}", body, status=422)
    assert pointer in [error["pointer"] for error in problem["errors"]]
