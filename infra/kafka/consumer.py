"""Reading the events topic by hand-assigned offsets. No group, no commits: offsets live with the data they made."""

from datetime import datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import OFFSET_INVALID, TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, TopicPartition

from schemas.errors import InvariantBroken, Retry
from schemas.instants import EPOCH

ANSWER_TIMEOUT_SECONDS = 10
QUEUED_KBYTES = 64 * 1024  # most that librdkafka holds ready
MAX_FETCH_BYTES = 64 * 1024 * 1024
#: A fetch costs the broker as much as thousands of events: it answers when so much has come, or after this time.
MIN_FETCH_BYTES = 256 * 1024
FETCH_WAIT_MS = 25
QUEUE_BACKOFF_MS = 20  # librdkafka's own default of a second is a pause of a second when its queue is full


class Message(NamedTuple):
    """One message: where it stands, when the broker appended it (milliseconds since 1970, its clock), what it says."""

    partition: int
    offset: int
    appended_at_ms: int
    value: bytes

    @property
    def appended_at(self) -> datetime:
        return EPOCH + timedelta(milliseconds=self.appended_at_ms)


class LogReader:
    """Reads the partitions given to `seek`. Not for several threads."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "meterline-flow",
                "group.id": "meterline-flow",  # librdkafka wants one; nothing is ever committed to it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # an offset that is not there is never skipped in silence
                "enable.partition.eof": False,
                "check.crcs": True,
                "queued.max.messages.kbytes": QUEUED_KBYTES,
                "fetch.min.bytes": MIN_FETCH_BYTES,
                "fetch.max.bytes": MAX_FETCH_BYTES,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 3,
            }
        )

    def partition_count(self) -> int:
        """Partitions of the topic. Raises InvariantBroken when it doesn't exist: reading it would only be silence."""
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=ANSWER_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise Retry("broker.unavailable", f"Kafka does not answer: {error}") from error
        partitions = metadata.topics[self._topic].partitions
        if not partitions:
            raise InvariantBroken("topic.missing", f"topic {self._topic} does not exist; `meterline migrate` makes it")
        return len(partitions)

    def seek(self, positions: dict[int, int]) -> None:
        """Read these partitions, from these offsets on, and no others."""
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])

    def poll(self, *, wait_seconds: float, max_messages: int) -> list[Message]:
        """What has come: waits up to `wait_seconds` for a first message, then takes what is there, up to the maximum.

        Messages of one partition come in their order. Raises Retry when the broker reports an error, InvariantBroken
        when an offset does not exist any more or the topic has another clock than the broker's.
        """
        messages = self._consumer.consume(1, wait_seconds)
        if messages and max_messages > 1:
            messages += self._consumer.consume(max_messages - 1, 0)
        found: list[Message] = []
        for message in messages:
            error = message.error()
            if error is not None:
                raise _failure(error.name(), error.str())
            kind, appended_at_ms = message.timestamp()
            if kind != TIMESTAMP_LOG_APPEND_TIME:
                raise InvariantBroken("topic.config_differs", f"topic {self._topic} needs LogAppendTime")
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            value = message.value()
            found.append(Message(partition, offset, appended_at_ms, bytes(value) if value is not None else b""))
        return found

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        """The offset after the last acknowledged message of each, as the broker says it now. Raises Retry."""
        ends: dict[int, int] = {}
        for partition in partitions:
            try:
                watermarks = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=ANSWER_TIMEOUT_SECONDS, cached=False
                )
            except KafkaException as error:
                raise Retry("broker.unavailable", f"Kafka does not answer: {error}") from error
            if watermarks[1] == OFFSET_INVALID:
                raise Retry("broker.unavailable", f"Kafka does not say where partition {partition} ends")
            ends[partition] = watermarks[1]
        return ends

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _failure(name: str, text: str) -> Retry | InvariantBroken:
    if name in {"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"}:
        return InvariantBroken("log.offset_missing", f"the log does not hold the offset that comes next: {text}")
    return Retry("broker.unavailable", f"reading the log failed: {name}: {text}")
