"""Events packed into messages: each to its partition, none lost, no message too large."""

from typing import Any

import pytest

from infra.intake.columns import concatenate
from infra.intake.pack import MAX_MESSAGE_BYTES, MAX_SHARED_NAMES, pack
from infra.kafka.event_log import identity_hash, partition_of, unpacked_bytes, unseal
from infra.kafka.producer import MAX_MESSAGE_BYTES as MAX_SENT_BYTES
from schemas.events import MAX_EVENT_BYTES, MAX_FIELD_LENGTH
from schemas.topics import EVENTS_TOPIC_CONFIG
from tests.support.batches import TENANT_NO, columns_of, expected_rows, random_events, rows_of


@pytest.mark.parametrize(("count", "partitions"), [(1, 4), (5, 4), (700, 4), (700, 1), (3, 64)])
def test_packing_loses_nothing_and_sends_every_event_to_its_partition(count: int, partitions: int) -> None:
    events = random_events(count)
    parts = [columns_of(events[start : start + 90]) for start in range(0, count, 90)]
    found: list[dict[str, Any]] = []
    for message in pack(concatenate(parts), TENANT_NO, partitions):
        batch = unseal(message.value)
        assert message.count == batch.count
        rows = rows_of(batch)
        for row in rows:
            assert partition_of(identity_hash(TENANT_NO, row["source"], row["id"]), partitions) == message.partition
        places = [row["data"]["n"] for row in rows]
        assert places == sorted(places), "copies must keep their order"
        found += rows
    assert sorted(found, key=lambda row: row["data"]["n"]) == expected_rows(events)


def test_no_message_is_larger_than_its_limit() -> None:
    events = random_events(100, size=100_000)
    for each in events:
        each["data"]["pad"] = each["data"]["pad"][:60_000]
    messages = pack(columns_of(events), TENANT_NO, 2)
    assert len(messages) > 2
    assert sum(message.count for message in messages) == 100
    for message in messages:
        assert len(unseal(message.value).data) <= MAX_MESSAGE_BYTES


LONGEST_CHARACTER = "\U0002070e"  # four bytes


@pytest.mark.parametrize("long", ["source", "type", "reservation"])
def test_names_and_extensions_count_as_bytes_of_a_message_too(long: str) -> None:
    length = 4_000 if long == "reservation" else MAX_FIELD_LENGTH - 8
    events = [
        each | {long: f"{number:08d}" + LONGEST_CHARACTER * length} for number, each in enumerate(random_events(1_000))
    ]
    messages = pack(columns_of(events), TENANT_NO, 1)
    assert sum(message.count for message in messages) == len(events)
    assert max(unpacked_bytes(message.value) for message in messages) <= MAX_MESSAGE_BYTES + MAX_EVENT_BYTES


def test_the_longest_message_is_one_that_the_topic_takes() -> None:
    dictionaries = 2 * MAX_SHARED_NAMES * MAX_FIELD_LENGTH * len(LONGEST_CHARACTER.encode())
    longest = MAX_MESSAGE_BYTES + MAX_EVENT_BYTES + dictionaries
    assert 2 * longest < int(EVENTS_TOPIC_CONFIG["max.message.bytes"]) == MAX_SENT_BYTES
