"""The idempotent producer: a message is on the log when its delivery callback says so, and not before."""

import logging
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from schemas.errors import Retry

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_BROKER_BATCH_BYTES = 1024 * 1024
MAX_QUEUED_MESSAGES = 100_000

_log = logging.getLogger("meterline.kafka")  # librdkafka's own words, passed on by `poll`

#: Called with None when the broker has the message, else with the reason. It must not raise.
OnDelivery = Callable[[str | None], None]
Headers = list[tuple[str, str | bytes | None]]


class Producer:
    """Publishes with acks=all. Nothing blocks: callbacks run inside `poll`, which the owner must go on calling.

    `timeout_seconds` is the longest a message may wait for its acknowledgement; `queued_bytes` the most that may wait.
    """

    def __init__(self, bootstrap: str, *, linger_ms: int, timeout_seconds: int, queued_bytes: int) -> None:
        self._config: dict[str, str | int | bool] = {
            "bootstrap.servers": bootstrap,
            "client.id": "meterline",
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "none",  # messages are compressed inside, so that the broker need not unpack them
            "linger.ms": linger_ms,
            "delivery.timeout.ms": timeout_seconds * 1000,
            "request.timeout.ms": timeout_seconds * 1000,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "batch.size": MAX_BROKER_BATCH_BYTES,
            "queue.buffering.max.messages": MAX_QUEUED_MESSAGES,
            "queue.buffering.max.kbytes": max(queued_bytes // 1024, 1),
            "socket.nagle.disable": True,
            "reconnect.backoff.max.ms": 1000,  # a broker that comes back is found within a second
        }
        self._current = KafkaProducer(self._config, logger=_log)
        self._retired: list[KafkaProducer] = []

    def send(self, topic: str, partition: int, value: bytes, headers: Headers, on_delivery: OnDelivery) -> None:
        """Queue one message. Raises Retry when the queue is full or the producer has just had to be replaced; then
        `on_delivery` is never called."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            on_delivery(None if error is None else error.str())

        try:
            self._current.produce(topic, value, partition=partition, headers=headers, on_delivery=delivered)
        except BufferError:
            raise Retry("ingest.overloaded", "Too many events wait for the broker; send them again.") from None
        except KafkaException as error:
            if not error.args[0].fatal():
                raise Retry("broker.unavailable", f"The broker refused the events: {error}") from error
            # An idempotent producer that lost its place on the log is of no more use; what it holds fails by itself.
            self._retired.append(self._current)
            self._current = KafkaProducer(self._config, logger=_log)
            raise Retry("broker.unavailable", "The connection to the broker was renewed; send again.") from error

    def poll(self) -> None:
        """Run the callbacks of what was decided since the last call. Never waits."""
        self._current.poll(0)
        for producer in list(self._retired):
            producer.poll(0)
            if len(producer) == 0:
                self._retired.remove(producer)

    def close(self, timeout_seconds: float) -> int:
        """Wait for what is queued, running callbacks; return how many messages are left undecided."""
        return sum(producer.flush(timeout_seconds) for producer in [self._current, *self._retired])
