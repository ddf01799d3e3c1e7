"""Requests of one event: checked together, sent in common messages, and answered each for itself."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from infra.intake.columns import MIN_VECTORIZED, Columns
from infra.intake.decode import decode_single
from infra.kafka.event_log import unseal
from infra.kafka.topics import ensure_topics
from infra.settings import Settings
from ingestion_api.ingest import group, publish
from ingestion_api.ingest.group import AllRejected
from ingestion_api.ingest.publish import Publisher
from schemas.instants import parse_instant, to_micros
from tests.support.batches import NOW, TENANT_NO, columns_of, random_events, rows_of, running_publisher
from tests.support.log import read_messages


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
