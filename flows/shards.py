"""A shard's part of the log as a Bytewax source: batches of messages, from the offsets in PostgreSQL on.

At start the pending batches are read again, each over exactly its ranges; after that whatever comes. Between two
batches the source says how far the shard is complete, also while nothing comes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bytewax.inputs import DynamicSource, StatelessSourcePartition

from flows.pace import gathering_seconds
from infra.kafka.consumer import LogReader, Message
from infra.kafka.event_log import MAX_UNPACKED_BYTES, is_change, unpacked_bytes
from infra.postgres.catalogue import head_version
from infra.postgres.pool import PgConnection
from infra.postgres.shards import (
    Intent,
    OffsetRange,
    claim_partitions,
    load_partitions,
    lock_shard,
    next_seq,
    pending_intents,
)
from infra.settings import Settings
from schemas.errors import Fenced, InvariantBroken, Retry

HEARTBEAT = timedelta(milliseconds=500)  # how often completeness is renewed while nothing comes
MAX_WAIT_SECONDS = 0.1  # of one poll; the flow hears SIGTERM in between
MAX_MESSAGES = 20_000  # a batch
MAX_BATCH_BYTES = 64 * 1024 * 1024  # a batch, unpacked
FULL_BATCH_BYTES = 2 * 1024 * 1024  # some 15,000 events; batches of so much come in the longest interval
MAX_CHANGE_BYTES = 40_000  # a batch, unpacked: some 2,400 changes in full messages, or 800 in a message each
REDO_READ_SECONDS = 60  # to read one pending batch again
REDO_MESSAGES = 1_000  # a poll while reading again

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBatch:
    """Messages of the shard's next offsets, and the catalogue that judges them: all of events, or all of changes.

    `intent` is None when there are no messages: then the batch only carries `until`, the instants up to which
    partitions are complete with it. `last_seq`: the shard's last intent before the batch, as far as this process knows.
    `redo`: its first commit was made by an earlier process.
    """

    messages: list[Message]
    intent: Intent | None
    last_seq: int
    until: dict[int, datetime]
    catalogue_version: int
    redo: bool = False
    polled_at: float = field(default_factory=time.monotonic)


class Shard:
    """Reads one shard's partitions. For one thread; the connection is its own between two calls."""

    def __init__(
        self, settings: Settings, *, reader: LogReader, connection: PgConnection, clock: Clock, stop: threading.Event
    ) -> None:
        self._topic = settings.events_topic
        self.number = settings.flow_shard
        self.partitions = owned_partitions(settings)
        self._least_seconds = settings.flow_poll_ms / 1000
        self._poll_seconds = self._least_seconds
        self._reader = reader
        self._connection = connection
        self._clock = clock
        self._stop = stop
        self._positions: dict[int, int] = {}
        self._seq = 0
        self._pending: list[Intent] = []
        self._carry: list[Message] = []
        self._beat_at = clock()
        self._last_poll = 0.0
        self.stored_since: datetime | None = None

    def start(self) -> None:
        """Claim the partitions and find the place to go on from. Raises InvariantBroken when the topic is not right."""
        check_topic(self._reader, self._topic, self.partitions)
        with self._connection.transaction():
            claim_partitions(self._connection, topic=self._topic, shard=self.number, partitions=self.partitions)
            lock_shard(self._connection, shard=self.number)
            states = load_partitions(self._connection, topic=self._topic, shard=self.number)
            self._seq = next_seq(self._connection, shard=self.number)
            self._pending = pending_intents(self._connection, shard=self.number)
        self._positions = {partition: states[partition].next_offset for partition in self.partitions}
        stored = [states[partition].stored_until for partition in self.partitions]
        self.stored_since = min((at for at in stored if at is not None), default=None) if None not in stored else None

    def batches(self) -> Iterator[LogBatch | None]:
        """Pending batches again, then new ones without end; None whenever there is nothing to do yet."""
        for intent in self._pending:
            yield self._read_again(intent)
        self._reader.seek(self._positions)
        while not self._stop.is_set():
            yield self._next()

    def _next(self) -> LogBatch | None:
        if not self._carry:
            time.sleep(max(0.0, self._last_poll + self._poll_seconds - time.monotonic()))
            self._last_poll = time.monotonic()
        messages = self._take()
        size = sum(unpacked_bytes(message.value) for message in messages)
        self._poll_seconds = gathering_seconds(self._least_seconds, size=size, full=FULL_BATCH_BYTES)
        until = {message.partition: message.appended_at for message in messages}
        ranges = self._advance(messages)
        if self._clock() >= self._beat_at:
            until |= self._drained(self._positions.keys() - until.keys())
        if not messages and not until:
            return None
        version = head_version(self._connection)
        last_seq, intent = self._seq - 1, None
        if messages:
            intent = Intent(seq=self._seq, ranges=ranges, catalogue_version=version, created_at=self._clock())
            self._seq += 1
        return LogBatch(messages=messages, intent=intent, last_seq=last_seq, until=until, catalogue_version=version)

    def _take(self) -> list[Message]:
        """The next messages that go together; the others wait here for the next batch."""
        if not self._carry:
            self._carry = self._reader.poll(wait_seconds=MAX_WAIT_SECONDS, max_messages=MAX_MESSAGES)
        taken, self._carry = cut_batch(self._carry)
        return taken

    def _advance(self, messages: list[Message]) -> tuple[OffsetRange, ...]:
        """Move on past the messages: the ranges of offsets that they and any gaps before them fill."""
        last: dict[int, int] = {}
        for message in messages:
            if message.offset < self._positions[message.partition]:
                raise InvariantBroken("log.went_back", f"offset {message.offset} of {message.partition} came again")
            last[message.partition] = message.offset
        ranges = tuple(
            OffsetRange(partition=partition, first=self._positions[partition], last=offset)
            for partition, offset in sorted(last.items())
        )
        self._positions |= {partition: offset + 1 for partition, offset in last.items()}
        return ranges

    def _drained(self, partitions: Set[int]) -> dict[int, datetime]:
        """Partitions that hold nothing more, with an instant before they were asked: all acknowledged by then is in."""
        asked_at = self._clock()
        self._beat_at = asked_at + HEARTBEAT
        ends = self._reader.end_offsets(sorted(partitions))
        return {partition: asked_at for partition, end in ends.items() if end == self._positions[partition]}

    def _read_again(self, intent: Intent) -> LogBatch:
        """Exactly the messages of a pending batch. Raises Retry when they don't come in time."""
        self._reader.seek({r.partition: r.first for r in intent.ranges})
        last = {r.partition: r.last for r in intent.ranges}
        left = set(last)
        found: list[Message] = []
        deadline = time.monotonic() + REDO_READ_SECONDS
        while left:
            if time.monotonic() > deadline:
                raise Retry("broker.unavailable", f"pending intent {intent.seq} could not be read again in time")
            for message in self._reader.poll(wait_seconds=MAX_WAIT_SECONDS, max_messages=REDO_MESSAGES):
                if message.offset <= last[message.partition]:
                    found.append(message)
                if message.offset >= last[message.partition]:
                    left.discard(message.partition)
        until = {message.partition: message.appended_at for message in found}
        return LogBatch(
            messages=found,
            intent=intent,
            last_seq=intent.seq - 1,
            until=until,
            catalogue_version=intent.catalogue_version,
            redo=True,
        )


def cut_batch(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Those of the messages that make the next batch, and the others, both in their order.

    A batch is all of events or all of changes, as the first message is, and has a limited size. Only the order within
    a partition matters: what does not go along holds up what stands behind it in its partition, and no other.

    The events that a batch changes are loaded at once, after all before it is stored. So the number of changes is
    bounded, and small messages go together: each batch of its own would hold up the flow.
    """
    taken: list[Message] = []
    waiting: list[Message] = []
    behind: set[int] = set()  # partitions of which a message waits
    changes = bool(messages) and is_change(messages[0].value)
    room = MAX_CHANGE_BYTES if changes else MAX_BATCH_BYTES
    for message in messages:
        cost = min(unpacked_bytes(message.value), MAX_UNPACKED_BYTES)
        fits = is_change(message.value) == changes and (cost <= room or not taken)
        if fits and message.partition not in behind:
            room -= cost
            taken.append(message)
        else:
            behind.add(message.partition)
            waiting.append(message)
    return taken, waiting


def owned_partitions(settings: Settings) -> list[int]:
    """The partitions of the settings' shard."""
    return [p for p in range(settings.events_partitions) if p % settings.flow_shards == settings.flow_shard]


def check_topic(reader: LogReader, topic: str, partitions: list[int]) -> None:
    """Raise InvariantBroken unless the topic exists and has the partitions."""
    count = reader.partition_count()
    if not partitions or max(partitions) >= count:
        raise InvariantBroken("topic.partitions_differ", f"topic {topic} has {count} partitions, not {partitions}")


class LogSource(DynamicSource[LogBatch]):
    """The shard as Bytewax reads it: one worker, no recovery; the offsets are ours."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "LogPartition":
        del step_id
        if worker_index or worker_count != 1:
            raise Fenced("shard.one_worker", "a shard is read by one worker; start another process for another shard")
        return LogPartition(self._shard.batches())


class LogPartition(StatelessSourcePartition[LogBatch]):
    """Hands out one batch a call; ends when the shard was told to stop."""

    def __init__(self, batches: Iterator[LogBatch | None]) -> None:
        self._batches = batches

    def next_batch(self) -> list[LogBatch]:
        batch = next(self._batches)
        return [] if batch is None else [batch]
