"""Events on a real broker: what a 202 promises, and what happens when the broker does not answer."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.intake.columns import MIN_VECTORIZED, Columns, concatenate, identify
from infra.intake.decode import Form, decode, decode_single
from infra.intake.pack import MAX_MESSAGE_BYTES, pack
from infra.kafka.event_log import identity_hash, partition_of, unseal
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.settings import Settings
from ingestion_api.ingest import group, publish
from ingestion_api.ingest.group import AllRejected
from ingestion_api.ingest.publish import Publisher
from ingestion_api.ingest.trace import trace_of
from schemas.errors import InvariantBroken, Retry
from schemas.events import MAX_TRACE_HEADERS, EventBatch
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


def single(number: int, **fields: Any) -> bytes:
    event = {"id": f"single-{number}", "type": "t", "subject": "s", "data": {"n": number}} | fields
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


async def publish_singles(publisher: Publisher, bodies: Sequence[bytes], received: Sequence[int]) -> list[Any]:
    waiting: list[Any] = []
    for body, micros in zip(bodies, received, strict=True):
        event = decode_single(body)
        assert event is not None
        waiting.append(publisher.publish_single(body, event, micros, TENANT_NO))
    return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("count", [3, MIN_VECTORIZED + 5])
@pytest.mark.parametrize("bad", [False, True], ids=["all good", "some bad"])
def test_singles_are_checked_together_and_answered_each_for_itself(
    fresh_stack: Settings, count: int, bad: bool
) -> None:
    ensure_topics(fresh_stack)
    faults = {0: {"time": "2026-01-31T12:05:01Z"}, 2: {"subject": "a\nb"}} if bad else {}
    bodies = [
        single(n, **({"time": None if n % 2 else "2026-01-01T00:00:00Z"} | faults.get(n, {}))) for n in range(count)
    ]
    received = [NOW + n for n in range(count)]

    async def send() -> list[Any]:
        async with running_publisher(fresh_stack) as publisher:
            return await publish_singles(publisher, bodies, received)

    answers = asyncio.run(send())
    codes = {
        n: [(each.index, each.id, each.code) for each in answer.rejections]
        for n, answer in enumerate(answers)
        if isinstance(answer, AllRejected)
    }
    assert codes == (
        {0: [(0, "single-0", "event.time_in_future")], 2: [(0, "single-2", "event.invalid_field")]} if bad else {}
    )
    assert [answer for n, answer in enumerate(answers) if n not in codes] == [None] * (count - len(codes))
    rows = [row for message in read_messages(fresh_stack) for row in rows_of(unseal(message.value))]
    assert {row["id"]: (row["untimed"], row["micros"]) for row in rows} == {
        f"single-{n}": (n % 2 == 1, NOW + n if n % 2 else to_micros(parse_instant("2026-01-01T00:00:00Z")))
        for n in range(count)
        if n not in codes
    }


def test_an_event_that_is_good_by_its_own_receipt_is_good_among_earlier_ones(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)
    bodies = [single(0), single(1, time="2026-01-31T12:05:00.000010Z")]

    async def send() -> list[Any]:
        async with running_publisher(fresh_stack) as publisher:
            return await publish_singles(publisher, bodies, [NOW, NOW + 10])

    assert asyncio.run(send()) == [None, None]


def test_small_requests_that_come_one_after_another_share_messages_too(fresh_stack: Settings) -> None:
    ensure_topics(fresh_stack)

    async def send() -> None:
        async with running_publisher(fresh_stack) as publisher:
            waiting: list[Any] = []
            for number in range(300):
                event = decode_single(single(number))
                assert event is not None
                waiting.append(publisher.publish_single(single(number), event, NOW, TENANT_NO))
                await asyncio.sleep(0)
            waiting.append(publisher.publish(columns_of(random_events(1_500)), TENANT_NO))
            waiting.append(publisher.publish(columns_of(random_events(1, seed=9)), TENANT_NO))
            await asyncio.gather(*waiting)

    asyncio.run(send())
    batches = [unseal(message.value) for message in read_messages(fresh_stack)]
    assert sum(batch.count for batch in batches) == 1_801
    assert len(batches) < 150


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


def test_a_fault_in_packing_fails_one_group_alone(fresh_stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one event and of several have the error itself, which the route logs; the next group is sent."""
    ensure_topics(fresh_stack)
    real_pack = publish.pack

    def break_for_tenant(columns: Columns, tenant_no: int, partitions: int) -> Any:
        if tenant_no == TENANT_NO:
            raise ValueError("a fault")
        return real_pack(columns, tenant_no, partitions)

    monkeypatch.setattr(publish, "pack", break_for_tenant)

    async def send() -> list[Any]:
        async with running_publisher(fresh_stack) as publisher:
            event = decode_single(single(1))
            assert event is not None
            waiting = [
                publisher.publish_single(single(1), event, NOW, TENANT_NO),
                publisher.publish(columns_of(random_events(2)), TENANT_NO),
                publisher.publish(columns_of(random_events(1, seed=2)), TENANT_NO + 1),
            ]
            gathered = asyncio.gather(*waiting, return_exceptions=True)
            return await asyncio.wait_for(gathered, timeout=30)

    failed_single, failed_many, sent = asyncio.run(send())
    assert isinstance(failed_single, ValueError)
    assert isinstance(failed_many, ValueError)
    assert sent is None


def test_a_fault_in_checking_answers_single_events_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_events: object, _received: int) -> Any:
        raise ValueError("a fault")

    monkeypatch.setattr(group, "check_columns", broken)

    async def send() -> list[Any]:
        async with running_publisher(Settings(kafka_bootstrap="127.0.0.1:9")) as publisher:
            return await asyncio.wait_for(publish_singles(publisher, [single(1), single(2)], [NOW, NOW]), timeout=30)

    assert [type(answer) for answer in asyncio.run(send())] == [ValueError, ValueError]
