"""GET /v1/events and /v1/events/{id}: what became of an event."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ingestion_api.queries import event_lookup
from tests.infra.clickhouse.rows import StoredEvent
from tests.ingestion_api.queries.conftest import Tenant

NOON = datetime.fromisoformat("2026-03-07T12:00:30.5Z")


@pytest.fixture
def stored(tenant: Tenant) -> Tenant:
    """Events 0 to 4 of acme a minute apart, one quarantined, one unmatched; copies of two of them."""
    acme = tenant.customers["acme"]
    calls = [
        StoredEvent(id=f"e{n}", customer_no=acme, occurred_at=NOON + timedelta(minutes=n), type="call", offset=n,
                    received_at=NOON + timedelta(minutes=n, seconds=1),
                    data=f'{{"tokens": 0.123456789012{n},"model":"m"}}')
        for n in range(5)
    ]  # fmt: skip
    odd = [
        StoredEvent(id="q", customer_no=0, occurred_at=NOON, type="call", data="{}", status="quarantined",
                    code="event.unknown_subject", subject="nobody"),
        StoredEvent(id="a/b ü?", source="svc", customer_no=acme, occurred_at=NOON, type="other", data='{"x":[1.50]}',
                    status="unmatched"),
    ]  # fmt: skip
    tenant.store([*calls, *odd], redo=True)
    tenant.store_copies(
        [
            replace(calls[0], offset=100, received_at=NOON + timedelta(hours=1)),
            replace(calls[0], offset=101, received_at=NOON + timedelta(hours=2)),
            replace(calls[1], offset=102, received_at=NOON + timedelta(hours=3), data='{"tokens":2}'),
        ]
    )
    return tenant


def ids(answer: dict[str, Any]) -> list[str]:
    return [event["id"] for event in answer["data"]]


def test_an_event_shows_its_whole_way(stored: Tenant) -> None:
    event = stored.api.get("/v1/events/e3")
    assert event | {"trace": [step["step"] for step in event["trace"]]} == {
        "object": "event", "id": "e3", "source": "api", "type": "call", "subject": "acme",
        "time": "2026-03-07T12:03:30.500000Z", "received_at": "2026-03-07T12:03:31.500000Z", "status": "counted",
        "code": None, "customer": "acme", "data": {"tokens": 0.1234567890123, "model": "m"}, "copies": 0,
        "conflict": False,
        "meters": [
            {"meter": "tokens", "value": "0.123456789012", "rounded": True, "group": {"model": "m"},
             "window_start": "2026-03-07T12:03:00Z", "invoice": None},
            {"meter": "calls", "value": "1", "rounded": False, "group": {},
             "window_start": "2026-03-07T12:03:00Z", "invoice": None},
        ],
        "trace": ["received", "customer", "counted", "counted"],
    }  # fmt: skip


def test_the_data_keeps_the_text_that_was_sent(stored: Tenant) -> None:
    assert b'"data":{"x":[1.50]}' in stored.api.http.get("/v1/events/a%2Fb%20%C3%BC%3F").content


def test_an_event_that_counts_for_nothing_says_why(stored: Tenant) -> None:
    event = stored.api.get("/v1/events/q")
    assert (event["status"], event["code"], event["customer"]) == ("quarantined", "event.unknown_subject", None)
    assert event["meters"] == []
    assert [step["step"] for step in event["trace"]] == ["received", "quarantined"]
    assert stored.api.get("/v1/events/a%2Fb%20%C3%BC%3F")["status"] == "unmatched"


def test_copies_are_counted_and_a_different_one_is_a_conflict(stored: Tenant) -> None:
    first, second = stored.api.get("/v1/events/e0"), stored.api.get("/v1/events/e1")
    assert (first["copies"], first["conflict"]) == (2, False)
    assert (second["copies"], second["conflict"]) == (1, True)
    assert [step["step"] for step in first["trace"]] == [
        "received", "customer", "counted", "counted", "duplicate", "duplicate"
    ]  # fmt: skip
    assert [step["step"] for step in second["trace"]] == ["received", "customer", "counted", "counted", "duplicate"]
    assert "says something else" in second["trace"][-1]["detail"]
    for event in (first, second):
        assert [step["at"] for step in event["trace"]] == sorted(step["at"] for step in event["trace"])
    assert ids(stored.api.get("/v1/events?status=duplicate")) == ["e1", "e0"]


def test_a_meter_made_later_has_not_counted_the_event(stored: Tenant) -> None:
    stored.api.post("/v1/meters", {"key": "late", "event_type": "call", "aggregation": "count"})
    event = stored.api.get("/v1/events/e3")
    assert [taken["meter"] for taken in event["meters"]] == ["tokens", "calls"]


def test_a_meter_made_later_that_cannot_group_an_old_event_spoils_no_page(tenant: Tenant) -> None:
    odd = StoredEvent(
        id="odd",
        customer_no=tenant.customers["acme"],
        occurred_at=NOON,
        type="call",
        data='{"zone":1e99999999999999999999}',
    )
    tenant.store([odd])
    tenant.api.post("/v1/meters", {"key": "zones", "event_type": "call", "aggregation": "count", "group_by": ["zone"]})
    [event] = tenant.api.get("/v1/events")["data"]
    assert [taken["meter"] for taken in event["meters"]] == ["calls"]


def test_a_list_is_newest_first_and_takes_filters(stored: Tenant) -> None:
    get = stored.api.get
    assert ids(get("/v1/events?type=call&status=counted")) == ["e4", "e3", "e2", "e1", "e0"]
    assert ids(get("/v1/events", customer="acme", limit=2)) == ["e4", "e3"]
    assert ids(get("/v1/events", customer="umbrella")) == []
    assert ids(get("/v1/events?status=quarantined")) == ["q"]
    assert ids(get("/v1/events", code="event.unknown_subject")) == ["q"]
    assert ids(get("/v1/events?status=unmatched")) == ["a/b ü?"]
    assert ids(get("/v1/events?subject=nobody")) == ["q"]
    assert ids(get("/v1/events?subject=nobody&status=counted")) == []
    assert ids(get("/v1/events?source=svc")) == ["a/b ü?"]
    assert ids(get("/v1/events?source=api&subject=nobody")) == ["q"]
    assert ids(get("/v1/events?status=voided")) == []
    exact = {"from": "2026-03-07T12:01:30.5Z", "to": "2026-03-07T12:03:30.5Z"}
    assert ids(get("/v1/events", **exact)) == ["e2", "e1"]


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_pages_hold_every_event_once_although_rows_stand_twice(stored: Tenant, limit: int) -> None:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = stored.api.get("/v1/events", limit=limit, **({"starting_after": cursor} if cursor else {}))
        assert len(page["data"]) <= limit
        found += ids(page)
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert found[:4] == ["e4", "e3", "e2", "e1"]
    assert sorted(found) == sorted(["e0", "e1", "e2", "e3", "e4", "q", "a/b ü?"])


def test_a_cursor_goes_on_only_with_the_list_it_is_of(stored: Tenant) -> None:
    cursor = stored.api.get("/v1/events", limit=1, type="call")["next_cursor"]
    assert ids(stored.api.get("/v1/events", limit=2, type="call", starting_after=cursor)) == ["e3", "e2"]
    for other in ("", "&type=call&status=counted", "&type=other"):
        problem = stored.api.get(f"/v1/events?starting_after={cursor}{other}", status=422)
        assert (problem["code"], problem["errors"][0]["pointer"]) == ("request.invalid_field", "/starting_after")


def test_an_event_of_one_source_too_many_asks_for_it_and_is_not_said_to_be_missing(
    stored: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_lookup, "MAX_SOURCES", 1)  # it has sent from two, `api` and `svc`
    problem = stored.api.get("/v1/events/none", status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("event.source_needed", "/source")
    assert stored.api.get("/v1/events/none", source="svc", status=404)["code"] == "event.not_found"
    assert stored.api.get("/v1/events/e1")["source"] == "api"
    monkeypatch.setattr(event_lookup, "MAX_SOURCES", 2)
    assert stored.api.get("/v1/events/none", status=404)["code"] == "event.not_found"


def test_a_source_tells_same_ids_apart(stored: Tenant) -> None:
    acme = stored.customers["acme"]
    stored.store(
        [
            StoredEvent(id="same", source=source, customer_no=acme, occurred_at=NOON, type="call", data="{}")
            for source in ("s1", "s2")
        ],
        seq=3,
    )
    assert stored.api.get("/v1/events/same", source="s2")["source"] == "s2"
    assert stored.api.get("/v1/events/same", status=422)["code"] == "event.ambiguous"
    assert stored.api.get("/v1/events/same", source="s3", status=404)["code"] == "event.not_found"


@pytest.mark.usefixtures("stored")
def test_another_tenants_event_is_not_found(operator: Any) -> None:
    stranger = operator.new_tenant()
    assert stranger.get("/v1/events/e3", status=404)["code"] == "event.not_found"
    assert stranger.get("/v1/events")["data"] == []


@pytest.mark.parametrize(
    ("query", "status"),
    [("status=lost", 422), ("limit=1001", 422), ("from=x", 422), ("customer=nope", 404), ("starting_after=eA", 422),
     ("starting_after=" + "lM__________" * 3, 422), ("type=", 422),
     ("to=2026-01-01T00:00:00Z&from=2026-01-02T00:00:00Z", 422)],
)  # fmt: skip
def test_a_wrong_parameter_is_refused(tenant: Tenant, query: str, status: int) -> None:
    tenant.api.get(f"/v1/events?{query}", status=status)
