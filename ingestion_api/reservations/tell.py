"""Tells replicas of what is held: they ask PostgreSQL about it from then on, in this process at once."""

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from infra.kafka.producer import Producer
from infra.postgres.holds import HoldKey
from ingestion_api.entitlements.replica import Replica
from schemas.balances import Held, encode
from schemas.errors import Retry
from schemas.instants import to_micros

#: A committed reservation is held until the counters have what came before it: hardly ever longer than this.
COMMITTED_FOR = timedelta(minutes=10)
PARTITION = 0  # any would do: replicas read all of them

_log = structlog.get_logger("meterline.api")


class HoldTeller:
    """Never waits, never raises: what has been reserved stands, whoever hears of it. Without a producer only this
    process does."""

    def __init__(self, replica: Replica, producer: Producer | None, topic: str) -> None:
        self._replica = replica
        self._producer = producer
        self._topic = topic
        self._lock = threading.Lock()

    def tell(self, held_until: Mapping[HoldKey, datetime]) -> None:
        """Something of each of these is held until then, and a while longer if it is committed."""
        until = to_micros(max(held_until.values()) + COMMITTED_FOR)
        message = Held(keys=[(key.customer_id, key.feature_id) for key in held_until], until=until)
        with self._lock:
            self._replica.mark_held(message)
            if self._producer is None:
                return
            try:
                self._producer.send(self._topic, PARTITION, encode(message), [], _delivered)
            except Retry as error:
                _delivered(error.detail)
            self._producer.poll()


def _delivered(failure: str | None) -> None:
    if failure is not None:
        _log.warning("holds not told", reason=failure)
