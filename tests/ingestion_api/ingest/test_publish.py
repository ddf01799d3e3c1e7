"""Events on a real broker: what a 202 promises, and what happens when the broker does not answer."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.intake.columns import Columns, concatenate, identify
from infra.intake.decode import Form, decode
from infra.intake.pack import MAX_MESSAGE_BYTES, pack
from infra.kafka.event_log import identity_hash, partition_of, unseal
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.settings import Settings
from ingestion_api.ingest import publish
from ingestion_api.ingest.publish import Publisher
from schemas.errors import InvariantBroken, Retry
from schemas.events import EventBatch
from schemas.instants import parse_instant, to_micros
from tests.support.log import read_messages

NOW = to_micros(parse_instant("2026-01-31T12:00:00Z"))
TENANT_NO = 3


def columns_of(events: Sequence[dict[str, Any]]) -> Columns:
    decoded = decode(json.dumps(events).encode(), Form.JSON, NOW)
    assert decoded.rejections == []
    assert decoded.events is not None
    identify(decoded.events, TENANT_NO)
    return decoded.events


def random_events(count: int, *, seed: int = 0, size: int = 20) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "id": f"{seed}-{number}-ü",
            "source": rng.choice(["api", "svc"]),
            "type": f"type-{rng.randrange(100)}",
            "subject": f"subject-{rng.randrange(50)}",
            "data": {"n": number, "pad": "x" * rng.randrange(size)},
        }
        | ({"time": f"2026-01-{rng.randrange(1, 31):02d}T00:00:00.{number % 1000:03d}Z"} if rng.random() < 0.8 else {})
        | ({"reservation": f"rsv_{number}"} if rng.random() < 0.1 else {})
        for number in range(count)
    ]


def rows_of(batch: EventBatch) -> list[dict[str, Any]]:
    """A batch as the events it was made of."""

    def texts(blob: bytes, lengths: bytes) -> list[str]:
        found: list[str] = []
        start = 0
        for length in memoryview(lengths).cast("H"):
            found.append(blob[start : start + length].decode())
            start += length
        assert start == len(blob)
        return found

    untimed = set(memoryview(batch.untimed).cast("I"))
    rows: list[dict[str, Any]] = []
    for place, (event_id, subject, data) in enumerate(
        zip(
            texts(batch.ids, batch.id_lengths),
            texts(batch.subjects, batch.subject_lengths),
            texts(batch.data, batch.data_lengths),
            strict=True,
        )
    ):
        source = batch.sources[memoryview(batch.source_codes).cast("H")[place]]
        assert batch.hashes[16 * place :][:16] == identity_hash(TENANT_NO, source, event_id)
        rows.append(
            {
                "id": event_id,
                "source": source,
                "type": batch.types[memoryview(batch.type_codes).cast("H")[place]],
                "subject": subject,
                "data": json.loads(data),
                "micros": memoryview(batch.times).cast("q")[place],
                "untimed": place in untimed,
                "extensions": json.loads(batch.extensions.get(place, "{}")),
            }
        )
    assert len(rows) == batch.count
    return rows


def expected_rows(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **{name: each[name] for name in ("id", "source", "type", "subject", "data")},
            "micros": to_micros(parse_instant(each["time"])) if "time" in each else NOW,
            "untimed": "time" not in each,
            "extensions": {"reservation": each["reservation"]} if "reservation" in each else {},
        }
        for each in events
    ]


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


@asynccontextmanager
async def running_publisher(settings: Settings, *, timeout_seconds: int = 10) -> AsyncIterator[Publisher]:
    producer = Producer(
        settings.kafka_bootstrap, linger_ms=1, timeout_seconds=timeout_seconds, queued_bytes=64 * 1024 * 1024
    )
    publisher = Publisher(
        producer,
        topic=settings.events_topic,
        partitions=settings.events_partitions,
        linger_ms=5,
        max_bytes_in_flight=1_000_000,
    )
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        producer.close(1)


def test_what_is_acknowledged_is_on_the_log_and_small_requests_share_messages(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)
    requests = [random_events(1, seed=seed) for seed in range(1, 101)] + [random_events(1_500)]

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            await asyncio.gather(*(publisher.publish(columns_of(each), TENANT_NO) for each in requests))

    asyncio.run(send())
    messages = read_messages(fresh_stack)
    found = [row for message in messages for row in rows_of(unseal(message.value))]
    wanted = [row for each in requests for row in expected_rows(each)]
    assert sorted(found, key=lambda row: row["id"]) == sorted(wanted, key=lambda row: row["id"])
    assert len(messages) < 50
    for message in messages:
        batch = unseal(message.value)
        assert message.headers == {"tenant": str(TENANT_NO), "count": str(batch.count)}


def test_tenants_never_share_a_message(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            await asyncio.gather(*(publisher.publish(columns_of(random_events(2, seed=no)), no) for no in (3, 4, 5)))

    asyncio.run(send())
    counts: dict[int, int] = {}
    for message in read_messages(fresh_stack):
        batch = unseal(message.value)
        counts[batch.tenant_no] = counts.get(batch.tenant_no, 0) + batch.count
    assert counts == {3: 2, 4: 2, 5: 2}


def test_a_broker_that_does_not_answer_is_a_retry_and_never_an_acknowledgement() -> None:
    nowhere = Settings(kafka_bootstrap="127.0.0.1:9", events_topic="t", events_partitions=4)

    async def send() -> None:
        async with running_publisher(nowhere, timeout_seconds=1) as publisher:
            with pytest.raises(Retry) as refused:
                await publisher.publish(columns_of(random_events(3)), TENANT_NO)
            assert refused.value.code == "broker.unavailable"

    asyncio.run(send())


def test_a_partition_the_topic_does_not_have_is_a_retry(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)
    wrong = fresh_stack.model_copy(update={"events_partitions": 64})

    async def send() -> None:
        async with running_publisher(wrong, timeout_seconds=2) as publisher:
            with pytest.raises(Retry):
                await publisher.publish(columns_of(random_events(300)), TENANT_NO)

    asyncio.run(send())


def test_a_client_that_went_away_disturbs_nobody(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            gone = publisher.publish(columns_of(random_events(1, seed=1)), TENANT_NO)
            stays = publisher.publish(columns_of(random_events(1, seed=2)), TENANT_NO)
            asyncio.ensure_future(gone).cancel()
            await stays

    asyncio.run(send())
    assert sum(unseal(message.value).count for message in read_messages(fresh_stack)) == 2


def test_bytes_in_flight_are_bounded_and_given_back() -> None:
    nowhere = Settings(kafka_bootstrap="127.0.0.1:9")

    async def fill() -> None:
        async with running_publisher(nowhere) as publisher:
            with publisher.flight() as first, publisher.flight() as second:
                first.grow_to(600_000)
                first.grow_to(500_000)
                second.grow_to(400_000)
                with pytest.raises(Retry) as refused:
                    second.grow_to(400_001)
                assert refused.value.code == "ingest.overloaded"
                assert refused.value.retry_after_seconds > 0
            with publisher.flight() as alone:
                alone.grow_to(5_000_000)

    asyncio.run(fill())


def test_a_full_queue_is_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FULL_GROUP_EVENTS", 1)
    producer = Producer("127.0.0.1:9", linger_ms=1, timeout_seconds=1, queued_bytes=2048)

    async def send() -> None:
        publisher = Publisher(producer, topic="t", partitions=4, linger_ms=1, max_bytes_in_flight=1)
        running = asyncio.create_task(publisher.run())
        answers = await asyncio.gather(
            *(publisher.publish(columns_of(random_events(20, seed=n)), TENANT_NO) for n in range(20)),
            return_exceptions=True,
        )
        running.cancel()
        assert {getattr(answer, "code", None) for answer in answers} == {"ingest.overloaded", "broker.unavailable"}

    asyncio.run(send())
    producer.close(1)


def test_topics_are_made_once_and_another_number_of_partitions_is_refused(fresh_stack: Settings) -> None:
    assert len(ensure_topics(fresh_stack)) == 3
    assert ensure_topics(fresh_stack) == []
    with pytest.raises(InvariantBroken) as refused:
        ensure_topics(fresh_stack.model_copy(update={"events_partitions": 8}))
    assert refused.value.code == "topic.partitions_differ"
