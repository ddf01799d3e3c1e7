"""A fact in each server that must outlive whatever is killed."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta

import clickhouse_connect
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from temporalio.client import Client

from infra.settings import Settings

TOPIC = "marks"
ANSWER_SECONDS = 10


def leave(settings: Settings) -> str:
    """Write one new mark everywhere, acknowledged by each server. Returns it."""
    mark = uuid.uuid4().hex
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS marks (mark text)")
        connection.execute("INSERT INTO marks VALUES (%s)", (mark,))
    client = clickhouse_connect.get_client(dsn=settings.clickhouse_url)
    client.command("CREATE TABLE IF NOT EXISTS marks (mark String) ENGINE = MergeTree ORDER BY mark")
    client.insert("marks", [[mark]], column_names=["mark"], settings={"async_insert": 0})
    client.close()
    _leave_in_kafka(settings, mark)
    asyncio.run(_start_workflow(settings, mark))
    return mark


def in_postgres(settings: Settings, mark: str) -> bool:
    with psycopg.connect(settings.postgres_dsn, connect_timeout=2) as connection:
        return connection.execute("SELECT count(*) FROM marks WHERE mark = %s", (mark,)).fetchone() == (1,)


def in_clickhouse(settings: Settings, mark: str) -> bool:
    client = clickhouse_connect.get_client(dsn=settings.clickhouse_url, query_retries=0)
    try:
        query = "SELECT count() FROM marks WHERE mark = {mark:String}"
        return client.query(query, parameters={"mark": mark}).first_row[0] == 1
    finally:
        client.close()


def in_kafka(settings: Settings, mark: str) -> bool:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": mark, "log_level": 0})
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(TOPIC, 0), timeout=2)
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        messages = consumer.consume(end, timeout=ANSWER_SECONDS)
        return sum(message.value() == mark.encode() for message in messages) == 1
    finally:
        consumer.close()


def in_temporal(settings: Settings, mark: str) -> bool:
    return asyncio.run(_is_running(settings, mark))


STORES: dict[str, Callable[[Settings, str], bool]] = {
    "postgres": in_postgres,
    "clickhouse": in_clickhouse,
    "kafka": in_kafka,
    "temporal": in_temporal,
}


def _leave_in_kafka(settings: Settings, mark: str) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    if TOPIC not in admin.list_topics(timeout=ANSWER_SECONDS).topics:
        admin.create_topics([NewTopic(TOPIC, 1, 1)])[TOPIC].result(ANSWER_SECONDS)
    outcomes: list[object] = []
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "acks": "all", "log_level": 0})
    producer.produce(TOPIC, mark.encode(), on_delivery=lambda error, _message: outcomes.append(error))
    producer.flush(ANSWER_SECONDS)
    assert outcomes == [None]


async def _start_workflow(settings: Settings, mark: str) -> None:
    """A workflow that no worker takes: it waits in the server."""
    client = await Client.connect(settings.temporal_address)
    await client.start_workflow("Mark", id=mark, task_queue="nobody", execution_timeout=timedelta(hours=1))


async def _is_running(settings: Settings, mark: str) -> bool:
    client = await Client.connect(settings.temporal_address)
    description = await client.get_workflow_handle(mark).describe(rpc_timeout=timedelta(seconds=2))
    return description.status is not None and description.status.name == "RUNNING"
