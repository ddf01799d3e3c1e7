"""The events topic as it stands, read from its beginning."""

import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from infra.settings import Settings

READ_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage:
    partition: int
    offset: int
    headers: dict[str, str]
    all_headers: list[tuple[str, str]]  # in their order: a name may come several times
    value: bytes


def read_messages(settings: Settings) -> list[LogMessage]:
    """Everything that the topic holds now."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "tests"})
    try:
        places = [TopicPartition(settings.events_topic, number, 0) for number in range(settings.events_partitions)]
        ends = [_end(consumer, place) for place in places]
        consumer.assign(places)
        messages: list[LogMessage] = []
        while len(messages) < sum(ends):
            read = consumer.consume(sum(ends) - len(messages), READ_SECONDS)
            assert read, "the topic ended too early"
            for message in read:
                assert message.error() is None
                all_headers = [(name, (value or b"").decode()) for name, value in message.headers() or []]
                messages.append(
                    LogMessage(
                        partition=message.partition(),
                        offset=message.offset(),
                        headers=dict(all_headers),
                        all_headers=all_headers,
                        value=message.value(),
                    )
                )
        return messages
    finally:
        consumer.close()


def _end(consumer: Consumer, place: TopicPartition) -> int:
    """The offset after the partition's last message. One that was just made may have no leader for a moment."""
    deadline = time.monotonic() + READ_SECONDS
    while True:
        try:
            return consumer.get_watermark_offsets(place, timeout=READ_SECONDS)[1]
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
