"""The events topic as it stands, read from its beginning."""

from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

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
        ends = [consumer.get_watermark_offsets(place, timeout=READ_SECONDS)[1] for place in places]
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
