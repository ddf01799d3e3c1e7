"""Tells replicas what a flow has committed. Whatever happens to a message, the commit stands: a replica that misses a
number reads PostgreSQL."""

import secrets
from collections.abc import Generator, Sequence
from datetime import datetime

import structlog

from flows.metrics import UNTOLD_BALANCES
from infra.kafka.producer import Producer
from infra.postgres.counters import CounterRow
from schemas.balances import PLAIN, Counted, Further, encode
from schemas.errors import Retry
from schemas.instants import to_micros

MAX_ROWS_A_MESSAGE = 15_000  # of 200 bytes at most, below `max.message.bytes`
PROCESS_BITS = 52

log = structlog.get_logger()


class BalanceTeller:
    """Publishes the changed counters of one shard; never waits, never raises."""

    def __init__(self, producer: Producer, topic: str, *, partitions: int, shard: int, shards: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = shard % partitions
        self._shard = shard
        self._shards = shards
        self._process = secrets.randbits(PROCESS_BITS)
        self._no = 0

    def tell(self, rows: Sequence[CounterRow], *, seq: int, until: dict[int, datetime]) -> None:
        """Rows as they are after the commit of `seq`."""
        for message in self.messages(rows, seq=seq, until=until):
            self._send(encode(message))

    def messages(self, rows: Sequence[CounterRow], *, seq: int, until: dict[int, datetime]) -> Generator[Counted]:
        """What is told, numbered on; the last message of several alone says `until`."""
        complete = {partition: to_micros(instant) for partition, instant in until.items()}
        for start in range(0, len(rows) or 1, MAX_ROWS_A_MESSAGE):
            part = rows[start : start + MAX_ROWS_A_MESSAGE]
            self._no += 1
            yield Counted(
                shard=self._shard,
                shards=self._shards,
                process=self._process,
                no=self._no,
                seq=seq,
                entitlements=[row.entitlement_no for row in part],
                starts=[to_micros(row.period_start) for row in part],
                revisions=[row.meter_revision for row in part],
                used=[str(row.part.used) for row in part],
                until=complete if start + MAX_ROWS_A_MESSAGE >= len(rows) else {},
                further={
                    place: further
                    for place, row in enumerate(part)
                    if (further := Further(row.part.events, row.part.rank, row.is_stale)) != PLAIN
                },
            )

    def _send(self, value: bytes) -> None:
        try:
            self._producer.send(self._topic, self._partition, value, [], _delivered)
        except Retry as error:
            _delivered(error.detail)
        self._producer.poll()


def _delivered(failure: str | None) -> None:
    if failure is not None:
        UNTOLD_BALANCES.inc()
        log.warning("balances not told", reason=failure)
