"""Facts about identities, and what a look for them reads."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from infra.clickhouse import history
from infra.clickhouse.client import Client
from infra.clickhouse.history import load_facts
from infra.kafka.event_log import identity_hash
from tests.infra.clickhouse.rows import TENANT_NO, StoredEvent, store_events

NOON = datetime.fromisoformat("2026-03-07T12:00:00Z")
BEFORE = {0: 1_000_000}


def identity(name: str) -> bytes:
    return identity_hash(TENANT_NO, "api", name)


def event(name: str, offset: int, *, days: int = 0) -> StoredEvent:
    return StoredEvent(
        id=name, customer_no=1, occurred_at=NOON, received_at=NOON + timedelta(days=days), data="{}", offset=offset
    )


def places(client: Client, names: list[str]) -> list[tuple[int, int]]:
    facts = load_facts(client, tenant_no=TENANT_NO, identities=[identity(name) for name in names], before=BEFORE)
    return [(fact.offset, fact.change_offset) for fact in facts]


def test_all_first_copies_of_an_identity_and_all_their_changes_are_found_also_after_a_merge(
    clickhouse: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [event("twice", 10), event("twice", 20, days=9), event("twice", 30, days=60), event("other", 40, days=9)]
    for seq, copy in enumerate(copies, start=1):
        store_events(clickhouse, [copy], seq=seq, redo=True)
    store_events(clickhouse, [copy.taken_back(change_offset=100) for copy in copies[:2]], seq=9, redo=True)
    clickhouse.command("OPTIMIZE TABLE event_identities FINAL")
    expected = [(10, -1), (10, 100), (20, -1), (20, 100), (30, -1), (40, -1)]
    assert places(clickhouse, ["twice", "other", "none"]) == expected
    monkeypatch.setattr(history, "LOOKUP_PAGE", 1)
    assert places(clickhouse, ["twice", "other", "none"]) == expected


def test_a_query_for_facts_is_bounded_to_a_day_of_receipt(clickhouse: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"day-{day}" for day in range(5)]
    for day, name in enumerate(names):
        first = event(name, 200 + day, days=day)
        store_events(clickhouse, [first, replace(first, id=f"{name}-b", offset=300 + day)], seq=20 + day)
    asked: list[int] = []
    ask = clickhouse.query

    def note(text: str, parameters: dict[str, int]) -> object:
        if "last" in parameters:
            asked.append(parameters["last"] - parameters["first"])
        return ask(text, parameters=parameters)

    monkeypatch.setattr(clickhouse, "query", note)
    assert places(clickhouse, names) == [(200 + day, -1) for day in range(5)]
    assert asked == [0] * 5
