"""What became of an event is the fold of its decisions; lists filter by what holds, traces tell all of it."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.clickhouse import event_copies
from ingestion_api.queries import events as events_route
from tests.infra.clickhouse.rows import StoredEvent, store_events
from tests.ingestion_api.queries.conftest import Tenant

NOON = datetime.fromisoformat("2026-03-07T12:00:30Z")
LATER = NOON + timedelta(hours=1)


def ids(answer: dict[str, Any]) -> list[str]:
    return [event["id"] for event in answer["data"]]


def steps(event: dict[str, Any]) -> list[str]:
    return [step["step"] for step in event["trace"]]


def call(event_id: str, minute: int, **fields: Any) -> StoredEvent:
    given: dict[str, Any] = {"customer_no": 0, "type": "call", "data": '{"tokens":1,"model":"m"}', "offset": minute}
    return StoredEvent(id=event_id, occurred_at=NOON + timedelta(minutes=minute), **(given | fields))


def replayed(event: StoredEvent, offset: int, **fields: Any) -> StoredEvent:
    return replace(event, change_offset=offset, judged_at=LATER, **fields)


@pytest.fixture
def changed(tenant: Tenant) -> Tenant:
    """plain: counted · voided: counted, then voided · late: unknown subject, then acme's · stuck: replayed in vain."""
    acme = tenant.customers["acme"]
    unknown = {"status": "quarantined", "code": "event.unknown_subject"}
    plain, voided = call("plain", 1, customer_no=acme), call("voided", 2, customer_no=acme)
    late, stuck = call("late", 3, **unknown), call("stuck", 4, **unknown, subject="who")
    tenant.store([plain, voided, late, stuck], redo=True)
    changes = [
        replayed(voided, 50, status="voided", effect=-1),
        replayed(late, 51, customer_no=acme, status="counted", code=""),
        replayed(stuck, 52, customer_no=acme, status="quarantined", code="event.invalid_value"),
    ]
    tenant.store(changes, seq=2, redo=True)
    return tenant


def test_an_event_is_what_its_last_decision_made_of_it(changed: Tenant) -> None:
    shown = {event["id"]: event for event in changed.api.get("/v1/events")["data"]}
    assert [*shown] == ["stuck", "late", "voided", "plain"]
    assert {name: (event["status"], event["code"], event["customer"]) for name, event in shown.items()} == {
        "plain": ("counted", None, "acme"),
        "voided": ("voided", None, "acme"),
        "late": ("counted", None, "acme"),
        "stuck": ("quarantined", "event.invalid_value", "acme"),
    }
    assert [taken["meter"] for taken in shown["late"]["meters"]] == ["tokens", "calls"]
    assert shown["voided"]["meters"] == shown["stuck"]["meters"] == []
    for name, event in shown.items():
        assert changed.api.get(f"/v1/events/{name}") == event


FILTERED = {
    "status=counted": ["late", "plain"],
    "status=voided": ["voided"],
    "status=quarantined": ["stuck"],
    "status=unmatched": [],
    "status=duplicate": [],
    "code=event.unknown_subject": [],
    "code=event.invalid_value": ["stuck"],
    "customer=acme": ["stuck", "late", "voided", "plain"],
    "customer=acme&status=counted": ["late", "plain"],
    "customer=umbrella": [],
    "type=call&code=event.invalid_value": ["stuck"],
}


@pytest.mark.parametrize("limit", [1, 20])
def test_a_list_filters_by_what_holds_now(changed: Tenant, limit: int) -> None:
    assert {query: list_all(changed, query, limit) for query in FILTERED} == FILTERED


def list_all(tenant: Tenant, query: str, limit: int) -> list[str]:
    listed: list[str] = []
    cursor = ""
    while True:
        page = tenant.api.get(f"/v1/events?{query}&limit={limit}{cursor}")
        listed += ids(page)
        if not page["has_more"]:
            return listed
        cursor = f"&starting_after={page['next_cursor']}"


def test_a_trace_tells_each_decision_with_its_time(changed: Tenant) -> None:
    late, voided = changed.api.get("/v1/events/late"), changed.api.get("/v1/events/voided")
    assert steps(late) == ["received", "quarantined", "replayed", "customer", "counted", "counted"]
    assert steps(voided) == ["received", "customer", "voided"]
    assert steps(changed.api.get("/v1/events/stuck")) == [
        "received", "quarantined", "replayed", "customer", "quarantined"
    ]  # fmt: skip
    later = "2026-03-07T13:00:30Z"
    assert [step["at"] for step in late["trace"][2:]] == [later] * 4
    assert voided["trace"][-1]["at"] == later


def test_an_unmatched_event_that_a_later_meter_has_taken_is_counted(tenant: Tenant) -> None:
    acme = tenant.customers["acme"]
    old = [call(f"o{n}", n, customer_no=acme, type="visit", status="unmatched") for n in range(3)]
    tenant.store(old)
    assert ids(tenant.api.get("/v1/events?status=unmatched")) == ["o2", "o1", "o0"]
    meter = {"key": "big", "event_type": "visit", "aggregation": "max", "value": "$.tokens"}
    tenant.api.post("/v1/meters", meter)
    assert ids(tenant.api.get("/v1/events?status=counted")) == []
    entry = replace_meter(tenant, "big")
    store_events(tenant.clickhouse, [replace(event, meters=[entry]) for event in old[:2]], tenant_no=tenant.no)
    assert ids(tenant.api.get("/v1/events?status=counted")) == ["o1", "o0"]
    assert ids(tenant.api.get("/v1/events?status=unmatched")) == ["o2"]
    event = tenant.api.get("/v1/events/o0")
    assert (event["status"], steps(event)) == ("counted", ["received", "customer", "counted"])


def replace_meter(tenant: Tenant, key: str) -> Any:
    """The entry of a meter that was made after the fixture."""
    from infra.postgres.meters import load_meter
    from ingestion_api.control.meters import to_entry

    with tenant.api.database.transaction() as connection:
        row = connection.execute("SELECT tenant_id FROM meters WHERE no = %s", (tenant.meters["calls"].meter_no,))
        found = row.fetchone()
        assert found is not None
        meter = load_meter(connection, tenant_id=found["tenant_id"], reference=key)
    assert meter is not None
    return to_entry(meter)


def test_a_page_may_be_short_where_few_of_many_events_are_of_the_status(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = tenant.customers["acme"]
    tenant.api.post("/v1/meters", {"key": "visits", "event_type": "visit", "aggregation": "count"})
    tenant.store([call(f"v{n}", n, customer_no=acme, type="visit", status="unmatched") for n in range(12)])
    tenant.store([call("counted", -1, customer_no=acme)], seq=2)
    monkeypatch.setattr(events_route, "MAX_EXAMINED_EVENTS", 6)
    monkeypatch.setattr(events_route, "EXAMINED_AT_ONCE", 3)
    pages = 0
    cursor = ""
    while True:
        page = tenant.api.get(f"/v1/events?status=counted&limit=2{cursor}")
        pages += 1
        if not page["has_more"]:
            break
        assert page["data"] == []
        cursor = f"&starting_after={page['next_cursor']}"
    assert (ids(page), pages) == (["counted"], 2)


def test_a_meter_says_why_it_took_nothing(tenant: Tenant) -> None:
    acme = tenant.customers["acme"]
    rules = [{"property": "$.region", "op": "eq", "values": ["eu"]}]
    tenant.api.post("/v1/meters", {"key": "eu", "event_type": "call", "aggregation": "count", "filters": rules})
    tenant.store([call("bare", 1, customer_no=acme, data='{"model":"m","region":"us"}')])
    trace = tenant.api.get("/v1/events/bare")["trace"]
    reasons = [step["detail"] for step in trace if step["step"] == "not_taken"]
    assert any("'tokens'" in reason and "there is nothing at $.tokens" in reason for reason in reasons)
    assert any("'eu'" in reason and '`$.region eq "eu"` does not let "us" through' in reason for reason in reasons)


def test_quarantine_names_the_meter_the_path_and_what_stood_there_or_the_subject_to_add(tenant: Tenant) -> None:
    acme = tenant.customers["acme"]
    odd = {"status": "quarantined", "code": "event.invalid_value", "data": '{"tokens":[1]}'}
    unknown = {"status": "quarantined", "code": "event.unknown_subject", "subject": "nobody"}
    store_events(
        tenant.clickhouse, [call("odd", 1, customer_no=acme, **odd), call("who", 2, **unknown)], tenant_no=tenant.no
    )
    details = [tenant.api.get(f"/v1/events/{name}")["trace"][-1]["detail"] for name in ("odd", "who")]
    assert "'tokens'" in details[0]
    assert "at $.tokens stands [1]" in details[0]
    assert "'nobody'" in details[1]
    assert "create the customer or add the subject" in details[1]


SAME: list[dict[str, Any]] = [
    {"data": '{ "model":"m", "tokens":1.00 }'},
    {"data": '{"tokens":10e-1,"model":"m"}'},
    {"extensions": "{}"},
    {"occurred_at": LATER, "untimed": True},  # it claims no time
]
OTHER: list[dict[str, Any]] = [
    {"data": '{"tokens":"1","model":"m"}'},
    {"data": '{"tokens":true,"model":"m"}'},
    {"data": '{"tokens":1,"model":"m","more":null}'},
    {"data": '{"tokens":1,"model":"m","odd":1e99999999999999999999}'},
    {"extensions": '{"trace":"x"}'},
    {"subject": "acme-2"},
    {"type": "other"},
    {"occurred_at": LATER},
]


def test_a_copy_conflicts_when_its_values_differ_and_not_when_its_text_does(tenant: Tenant) -> None:
    said = [(copy, False) for copy in SAME] + [(copy, True) for copy in OTHER]
    firsts = [call(f"e{n}", n, customer_no=tenant.customers["acme"]) for n in range(len(said))]
    tenant.store(firsts)
    tenant.store_copies(
        [
            replace(first, **{"offset": 90 + first.offset, "received_at": LATER, **copy})
            for first, (copy, _) in zip(firsts, said, strict=True)
        ]
    )
    listed = {event["id"]: event for event in tenant.api.get("/v1/events")["data"]}
    for first, (copy, conflict) in zip(firsts, said, strict=True):
        event = listed[first.id]
        assert (event["copies"], event["conflict"]) == (1, conflict), copy
        duplicate = event["trace"][-1]
        assert (duplicate["step"], duplicate["at"]) == ("duplicate", "2026-03-07T13:00:30Z")
        assert ("something else" in duplicate["detail"]) is conflict, copy
        assert tenant.api.get(f"/v1/events/{first.id}") == event


def test_lists_tell_of_few_copies_and_count_them_all(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    first = call("e", 1, customer_no=tenant.customers["acme"])
    tenant.store([first])
    tenant.store_copies([replace(first, offset=90 + n, received_at=LATER + timedelta(minutes=n)) for n in range(8)])
    monkeypatch.setattr(event_copies, "IDENTITIES_A_QUERY", 1)
    [listed] = tenant.api.get("/v1/events")["data"]
    assert (listed["copies"], steps(listed).count("duplicate")) == (8, 6)  # five of them, and how many more
    assert "3 further copies" in listed["trace"][-1]["detail"]
    assert steps(tenant.api.get("/v1/events/e")).count("duplicate") == 8
