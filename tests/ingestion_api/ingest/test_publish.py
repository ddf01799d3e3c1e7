"""Events on a real broker: what a 202 promises, and what happens when the broker does not answer."""

import asyncio

import pytest

from infra.kafka.event_log import unseal
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.settings import Settings
from ingestion_api.ingest import publish
from ingestion_api.ingest.publish import Publisher
from ingestion_api.ingest.trace import trace_of
from schemas.errors import InvariantBroken, Retry
from schemas.events import MAX_TRACE_HEADERS
from tests.support.batches import TENANT_NO, columns_of, expected_rows, random_events, rows_of, running_publisher
from tests.support.log import read_messages


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


def test_large_requests_of_a_tenant_share_messages_too(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)
    requests = [columns_of(random_events(1_000, seed=seed)) for seed in range(1, 9)]

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            await asyncio.gather(*(publisher.publish(each, TENANT_NO) for each in requests))

    asyncio.run(send())
    counts = [unseal(message.value).count for message in read_messages(fresh_stack)]
    assert sum(counts) == 8_000
    assert len(counts) == 2 * fresh_stack.events_partitions, "five requests make a full group, and three are left"


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


def test_messages_name_the_requests_they_carry_up_to_a_limit(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    bad = ["", "nope", given.upper(), given.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), "ff" + given[2:]]
    requests: list[dict[bytes, bytes]] = [
        {b"x-request-id": b"mine-1", b"traceparent": given.encode()},
        {b"x-request-id": b"not sane"},
        *({b"traceparent": each.encode()} for each in bad),
        {},
        *({b"x-request-id": b"more-%d" % n} for n in range(2 * MAX_TRACE_HEADERS)),
    ]

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            await asyncio.gather(
                *(
                    publisher.publish(columns_of(random_events(1, seed=n)), TENANT_NO, trace_of(headers))
                    for n, headers in enumerate(requests)
                )
            )

    asyncio.run(send())
    messages = read_messages(fresh_stack)
    assert sum(unseal(message.value).count for message in messages) == len(requests)
    for message in messages:
        found = [(name, value) for name, value in message.all_headers if name not in ("tenant", "count")]
        assert found[:3] == [("request-id", "mine-1"), ("traceparent", given), ("request-id", "more-0")]
        assert len(found) == MAX_TRACE_HEADERS
