"""System events on their topic, keyed by the object they tell of, so that each object's events keep their order."""

from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import Retry

DELIVERY_TIMEOUT_SECONDS = 10
LINGER_MS = 5


class SystemLog:
    """Publishes with acks=all. For one thread."""

    def __init__(self, bootstrap: str, topic: str, *, timeout_seconds: int = DELIVERY_TIMEOUT_SECONDS) -> None:
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "meterline-outbox",
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": LINGER_MS,
                "delivery.timeout.ms": timeout_seconds * 1000,
                "log_level": 3,
            }
        )

    def publish(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Publish (key, value) pairs and wait until the broker has every one. Raises Retry when it has not in time."""
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error.str())

        try:
            for key, value in events:
                self._producer.produce(self._topic, value, key=key.encode(), on_delivery=delivered)
            left = self._producer.flush(self._timeout_seconds)
        except (KafkaException, BufferError) as error:
            raise Retry("broker.unavailable", f"system events could not be published: {error}") from error
        if failures or left:
            reason = failures[0] if failures else f"{left} not acknowledged in time"
            raise Retry("broker.unavailable", f"system events could not be published: {reason}")
