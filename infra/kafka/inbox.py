"""Reading a topic whose place a consumer group keeps: the inbox, with events that others put on Kafka themselves, and
system events on their way to webhooks."""

from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.errors import Retry

GROUP = "meterline-inbox"
ANSWER_TIMEOUT_SECONDS = 10
MESSAGES_AT_ONCE = 500
QUEUED_KBYTES = 16 * 1024
QUEUE_BACKOFF_MS = 20


class InboxMessage(NamedTuple):
    """`stamped_at_ms`: the message's own time, milliseconds since 1970: the broker's clock on a topic that Meterline
    made, the producer's on others. Header names are in lower case; the last wins."""

    partition: int
    offset: int
    stamped_at_ms: int
    headers: dict[str, bytes]
    value: bytes


class InboxReader:
    """All partitions that the topic has now, each from where the group was. For one thread, and one process: a second
    would read the same messages, which does no harm."""

    def __init__(self, bootstrap: str, topic: str, *, group: str = GROUP) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": group,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",  # of a partition that was never read, or whose place has expired
                "queued.max.messages.kbytes": QUEUED_KBYTES,
                "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 3,
            }
        )

    def start(self) -> int:
        """Take over the partitions that the topic has now; how many. 0: there is no such topic yet. Raises Retry."""
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=ANSWER_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise Retry("broker.unavailable", f"Kafka does not answer: {error}") from error
        partitions = list(metadata.topics[self._topic].partitions)
        self._consumer.assign([TopicPartition(self._topic, partition) for partition in partitions])
        return len(partitions)

    def poll(self, wait_seconds: float) -> list[InboxMessage]:
        """What has come, up to MESSAGES_AT_ONCE; waits for a first message. Raises Retry."""
        messages = self._consumer.consume(1, wait_seconds)
        if messages:
            messages += self._consumer.consume(MESSAGES_AT_ONCE - 1, 0)
        found: list[InboxMessage] = []
        for message in messages:
            error = message.error()
            if error is not None:
                raise Retry("broker.unavailable", f"reading {self._topic} failed: {error.name()}: {error.str()}")
            _, stamped_at_ms = message.timestamp()
            partition, offset, value = message.partition(), message.offset(), message.value()
            assert partition is not None
            assert offset is not None
            headers = {name.lower(): _bytes(content) for name, content in message.headers() or []}
            found.append(InboxMessage(partition, offset, stamped_at_ms, headers, _bytes(value)))
        return found

    def commit(self, messages: list[InboxMessage]) -> None:
        """Remember that these, and all before them, are done. Raises Retry; then they will come again."""
        ends = {message.partition: message.offset + 1 for message in messages}
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in ends.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            raise Retry("broker.unavailable", f"the place on {self._topic} could not be kept: {error}") from error

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _bytes(content: bytes | str | None) -> bytes:
    return content.encode() if isinstance(content, str) else content or b""
