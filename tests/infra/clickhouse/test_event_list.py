"""Lists of events where many were changed or copied."""

from datetime import datetime, timedelta

import pytest

from infra.clickhouse import event_list
from infra.clickhouse.client import Client
from infra.clickhouse.event_list import EventFilter, list_events, position_of
from schemas.errors import Reject
from tests.infra.clickhouse.rows import TENANT_NO, StoredEvent, store_copies, store_events

NOON = datetime.fromisoformat("2026-03-07T12:00:00Z")
DAYS = 10


@pytest.fixture(scope="module")
def changed(clickhouse: Client) -> Client:
    """Ten voided events a day, each of them copied at once."""
    events = [
        StoredEvent(
            id=f"e{day}-{n}", customer_no=1, data="{}", offset=day * 10 + n,
            occurred_at=NOON + timedelta(days=day, minutes=n), received_at=NOON + timedelta(days=day, minutes=n),
        )
        for day in range(DAYS) for n in range(10)
    ]  # fmt: skip
    store_events(clickhouse, events)
    store_events(clickhouse, [event.taken_back(change_offset=1_000) for event in events], seq=2)
    store_copies(clickhouse, events, seq=3)
    return clickhouse


def only_sets_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = getattr(event_list, "_SETTINGS")  # noqa: B009 - what ClickHouse is told, made small here
    monkeypatch.setitem(settings, "max_rows_in_set", rows)


def test_a_list_holds_only_the_changes_of_its_time(changed: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    only_sets_of(15, monkeypatch)
    day = EventFilter(
        tenant_no=TENANT_NO, statuses=("voided",), start=NOON + timedelta(days=4), end=NOON + timedelta(days=5)
    )
    found = list_events(changed, day, after=None, limit=100)
    assert [event.id for event in found] == [f"e4-{n}" for n in reversed(range(10))]
    counted = EventFilter(tenant_no=TENANT_NO, statuses=("counted",), start=day.start, end=day.end)
    assert list_events(changed, counted, after=None, limit=100) == []


def test_a_page_holds_only_the_changes_after_its_cursor(changed: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    voided = EventFilter(tenant_no=TENANT_NO, statuses=("voided",))
    whole = list_events(changed, voided, after=None, limit=100)
    assert len(whole) == 100
    only_sets_of(15, monkeypatch)
    assert list_events(changed, voided, after=position_of(whole[89]), limit=100) == whole[90:]


def test_copies_from_before_the_range_are_not_held(changed: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    only_sets_of(25, monkeypatch)
    copied = EventFilter(tenant_no=TENANT_NO, with_copies=True, start=NOON + timedelta(days=9))
    assert len(list_events(changed, copied, after=None, limit=100)) == 10


@pytest.mark.parametrize("wanted", ["statuses", "copies"])
def test_a_list_that_needs_too_much_memory_is_refused(
    changed: Client, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setitem(getattr(event_list, "_SETTINGS"), "max_memory_usage", 1_000)  # noqa: B009 - as above
    statuses = ("voided",) if wanted == "statuses" else None
    every = EventFilter(tenant_no=TENANT_NO, statuses=statuses, with_copies=wanted == "copies")
    with pytest.raises(Reject) as refused:
        list_events(changed, every, after=None, limit=10)
    assert refused.value.code == "events.too_large"
