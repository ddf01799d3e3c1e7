"""Changes to events, onto the log of events: each on the partition of its identity, behind the event it changes."""

import threading
from collections.abc import Iterable, Iterator

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra.kafka.event_log import partition_of, seal_change
from schemas.errors import Retry
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeBatch, ChangeKind

DELIVERY_TIMEOUT_SECONDS = 10
LINGER_MS = 5
IDENTITY_BYTES = 16


def change_messages(
    *, tenant_no: int, kind: ChangeKind, identities: Iterable[bytes], partitions: int
) -> Iterator[tuple[int, bytes]]:
    """(partition, message) of the changes, each identity once, in messages of at most MAX_CHANGES_A_MESSAGE."""
    parts: dict[int, list[bytes]] = {}
    for identity in dict.fromkeys(identities):
        parts.setdefault(partition_of(identity, partitions), []).append(identity)
    for partition, found in sorted(parts.items()):
        for start in range(0, len(found), MAX_CHANGES_A_MESSAGE):
            hashes = b"".join(found[start : start + MAX_CHANGES_A_MESSAGE])
            yield partition, seal_change(ChangeBatch(tenant_no=tenant_no, kind=kind, hashes=hashes))


class ChangeLog:
    """Publishes changes with acks=all, for any threads, one publication at a time.

    The producer is made at the first publication, and anew after one that failed: an idempotent producer that lost its
    place is of no more use.
    """

    def __init__(
        self, bootstrap: str, topic: str, *, partitions: int, timeout_seconds: int = DELIVERY_TIMEOUT_SECONDS
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._partitions = partitions
        self._timeout_seconds = timeout_seconds
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def publish(self, *, tenant_no: int, kind: ChangeKind, identities: Iterable[bytes]) -> None:
        """Publish a change of this kind to each identity (16 bytes) and wait until the broker has every one.

        Raises Retry when it has not in time, or when another publication does not end in time; some may be on the log
        then. Publishing a change again does no harm.
        """
        messages = change_messages(tenant_no=tenant_no, kind=kind, identities=identities, partitions=self._partitions)
        if not self._lock.acquire(timeout=self._timeout_seconds):  # a broker that is away must not hold up many threads
            raise Retry("broker.unavailable", "Other changes wait for the broker; try again.")
        try:
            producer, self._producer = self._producer or self._connect(), None
            self._send(producer, messages)
            self._producer = producer
        finally:
            self._lock.release()

    def _connect(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "client.id": "meterline-changes",
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "none",  # messages are compressed inside
                "linger.ms": LINGER_MS,
                "delivery.timeout.ms": self._timeout_seconds * 1000,
                "log_level": 3,
            }
        )

    def _send(self, producer: Producer, messages: Iterable[tuple[int, bytes]]) -> None:
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error.str())

        try:
            for partition, value in messages:
                producer.produce(self._topic, value, partition=partition, on_delivery=delivered)
            left = producer.flush(self._timeout_seconds)
        except (KafkaException, BufferError) as error:
            raise Retry("broker.unavailable", f"The changes could not be published: {error}") from error
        if failures or left:
            reason = failures[0] if failures else f"{left} not acknowledged in time"
            raise Retry("broker.unavailable", f"The changes could not be published: {reason}")
