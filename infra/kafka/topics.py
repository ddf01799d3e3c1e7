"""The topics, made once before the services start."""

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage] - exported there, by its documentation
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from infra.settings import Settings
from schemas.balances import BALANCES_TOPIC_CONFIG
from schemas.errors import InvariantBroken, Retry
from schemas.topics import EVENTS_TOPIC_CONFIG, INBOX_TOPIC_CONFIG

ANSWER_TIMEOUT_SECONDS = 15
METADATA_POLL_SECONDS = 0.05
INBOX_PARTITIONS = 4
SYSTEM_PARTITIONS = 1  # system events keep their order
HOUR_MS = 3_600_000

#: What an events topic must have, whoever made it: `as_of` rests on the broker's clock.
REQUIRED_CONFIG = {"message.timestamp.type": "LogAppendTime"}


def _wanted(settings: Settings) -> list[NewTopic]:
    def topic(name: str, partitions: int, config: dict[str, str]) -> NewTopic:
        return NewTopic(name, num_partitions=partitions, replication_factor=settings.replication_factor, config=config)

    retention = {"retention.ms": str(settings.events_retention_hours * HOUR_MS)}
    inbox = [topic(settings.inbox_topic, INBOX_PARTITIONS, INBOX_TOPIC_CONFIG | retention)]
    return [
        *(inbox if settings.inbox_topic else []),
        topic(settings.events_topic, settings.events_partitions, EVENTS_TOPIC_CONFIG | retention),
        topic(settings.balances_topic, settings.events_partitions, BALANCES_TOPIC_CONFIG),
        topic(settings.system_topic, SYSTEM_PARTITIONS, retention),
    ]


def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing and return their names; safe to call from several places at once.

    Raises InvariantBroken when the events topic has another number of partitions than the settings say, or another
    clock than the broker's: copies of an event would no longer meet. Raises Retry when Kafka does not answer.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    wanted = _wanted(settings)
    try:
        existing = admin.list_topics(timeout=ANSWER_TIMEOUT_SECONDS).topics
        missing = [topic for topic in wanted if topic.topic not in existing]
        created = _create(admin, missing) if missing else []
        _check(admin, settings)
    except KafkaException as error:
        raise Retry("broker.unavailable", f"Kafka at {settings.kafka_bootstrap} does not answer: {error}") from error
    return created


def _create(admin: AdminClient, topics: list[NewTopic]) -> list[str]:
    """Create topics; one that another process has just made is fine."""
    created: list[str] = []
    futures = admin.create_topics(topics, operation_timeout=ANSWER_TIMEOUT_SECONDS)
    for name, future in futures.items():
        try:
            future.result(timeout=ANSWER_TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        else:
            created.append(name)
    return created


def _partition_count(admin: AdminClient, name: str) -> int:
    """Partitions of a topic that exists. One that was just made takes a moment to reach the broker's metadata."""
    deadline = time.monotonic() + ANSWER_TIMEOUT_SECONDS
    while True:
        count = len(admin.list_topics(name, timeout=ANSWER_TIMEOUT_SECONDS).topics[name].partitions)
        if count or time.monotonic() > deadline:
            return count
        time.sleep(METADATA_POLL_SECONDS)


def _check(admin: AdminClient, settings: Settings) -> None:
    name = settings.events_topic
    partitions = _partition_count(admin, name)
    if partitions != settings.events_partitions:
        raise InvariantBroken(
            "topic.partitions_differ",
            f"topic {name} has {partitions} partitions and METERLINE_EVENTS_PARTITIONS says"
            f" {settings.events_partitions}: copies of an event would no longer meet. Set it to {partitions}",
        )
    resource = ConfigResource(ResourceType.TOPIC, name)
    config = admin.describe_configs([resource])[resource].result(timeout=ANSWER_TIMEOUT_SECONDS)
    for key, value in REQUIRED_CONFIG.items():
        if config[key].value != value:
            raise InvariantBroken(
                "topic.config_differs", f"topic {name} has {key}={config[key].value}; it must be {value}"
            )
