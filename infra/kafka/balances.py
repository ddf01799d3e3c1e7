"""Reading the topic of balances from its end on: what was before, PostgreSQL says."""

from collections.abc import Generator

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from infra.kafka.consumer import ANSWER_TIMEOUT_SECONDS
from schemas.balances import Message, decode
from schemas.errors import Retry

MAX_MESSAGES = 500
QUEUED_KBYTES = 16 * 1024


class BalanceReader:
    """Follows all partitions. For one thread."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "meterline-replica",
                "group.id": "meterline-replica",  # librdkafka wants one; nothing is ever committed to it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                "queued.max.messages.kbytes": QUEUED_KBYTES,
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": 1000,
                "log_level": 3,
            }
        )

    def start(self) -> None:
        """Read what is published from now on. Raises Retry when the broker does not answer or has no such topic."""
        try:
            found = self._consumer.list_topics(self._topic, timeout=ANSWER_TIMEOUT_SECONDS).topics[self._topic]
            ends: list[TopicPartition] = []
            for partition in found.partitions:
                place = TopicPartition(self._topic, partition, OFFSET_END)
                _, end = self._consumer.get_watermark_offsets(place, timeout=ANSWER_TIMEOUT_SECONDS, cached=False)
                ends.append(TopicPartition(self._topic, partition, end))
        except KafkaException as error:
            raise Retry("broker.unavailable", f"Kafka does not answer: {error}") from error
        if not ends:
            raise Retry("broker.unavailable", f"There is no topic {self._topic} yet.")
        self._consumer.assign(ends)

    def poll(self, *, wait_seconds: float) -> Generator[Message]:
        """What has come. Raises Retry when the broker reports an error; messages of another release are passed by,
        which shows as a missing number."""
        messages = self._consumer.consume(1, wait_seconds)
        if messages:
            messages += self._consumer.consume(MAX_MESSAGES - 1, 0)
        for message in messages:
            error = message.error()
            if error is not None:
                raise Retry("broker.unavailable", f"reading balances failed: {error.str()}")
            try:
                yield decode(message.value() or b"")
            except msgspec.MsgspecError:
                continue

    def close(self) -> None:
        self._consumer.close()
