"""System events reach their topic in order, at least once, each always under its own id."""

import signal
import uuid

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from flows.outbox import relay_once
from infra.kafka.system_log import SystemLog
from infra.postgres import outbox
from infra.postgres.pool import connect
from schemas.errors import Retry
from schemas.topics import SystemEvent, SystemEventMessage
from tests.support.usage_log import NOON, WAIT_SECONDS, UsageLog, wait_for


def append(log: UsageLog, count: int) -> list[str]:
    """Outbox rows of two objects, committed; their ids in order."""
    with log.postgres.transaction():
        for index in range(count):
            outbox.append(
                log.postgres,
                tenant_id="ten_1",
                event=SystemEvent.CUSTOMER_CREATED,
                object_id=f"cus_{index % 2}",
                data={"index": index},
                now=NOON,
            )
    return [row["id"] for row in log.postgres.execute("SELECT id FROM outbox ORDER BY no")]


def published(log: UsageLog, at_least: int) -> list[tuple[str, SystemEventMessage]]:
    """(key, event) of everything on the topic, once so much is there."""
    consumer = Consumer({"bootstrap.servers": log.settings.kafka_bootstrap, "group.id": uuid.uuid4().hex})
    consumer.assign([TopicPartition(log.settings.system_topic, 0, 0)])
    found: list[tuple[str, SystemEventMessage]] = []

    def enough() -> bool:
        for message in consumer.consume(100, 0.1):
            assert message.error() is None
            found.append((message.key().decode(), msgspec.json.decode(message.value(), type=SystemEventMessage)))
        return len(found) >= at_least

    wait_for(enough, f"{at_least} system events are published")
    consumer.close()
    return found


def test_a_kill_between_the_broker_and_the_delete_publishes_again_under_the_same_id(log: UsageLog) -> None:
    ids = append(log, 4)
    flow = log.start_flow(crash_at="outbox.published")
    assert flow.wait(WAIT_SECONDS) == -signal.SIGKILL, flow.logged()
    assert len(published(log, 4)) == 4
    with log.flow() as running:
        wait_for(lambda: not left(log), "the outbox is empty")
        running.raise_failure()
    events = published(log, 8)
    assert [event.id for _, event in events] == ids * 2
    assert [key for key, _ in events[:4]] == ["cus_0", "cus_1", "cus_0", "cus_1"]
    assert events[3][1].data == {"index": 3}
    assert events[3][1].created_at == NOON


def left(log: UsageLog) -> int:
    row = log.postgres.execute("SELECT count(*) AS n FROM outbox").fetchone()
    assert row is not None
    return row["n"]


def test_rows_stay_when_the_broker_does_not_take_them(log: UsageLog) -> None:
    append(log, 1)
    with pytest.raises(Retry):
        relay_once(log.postgres, SystemLog(log.settings.kafka_bootstrap, "no.such.topic", timeout_seconds=1))
    assert left(log) == 1
    log.postgres.execute("DELETE FROM outbox")


def test_there_is_one_relay_at_a_time(log: UsageLog) -> None:
    first, second = connect(log.settings.postgres_dsn), connect(log.settings.postgres_dsn)
    assert outbox.become_relay(first)
    assert not outbox.become_relay(second)
    first.close()
    wait_for(lambda: outbox.become_relay(second), "the lock ends with its connection")
    second.close()
