"""How a shard cuts its part of the log into batches, and how far it says it is complete."""

import os
import threading
from collections import Counter
from datetime import UTC, datetime

from flows.shards import Shard, cut_batch
from infra.kafka.consumer import LogReader, Message
from infra.kafka.event_log import is_change, seal_change
from schemas.events import MAX_CHANGES_A_MESSAGE, ChangeBatch, ChangeKind
from tests.support.usage_log import Sent, UsageLog


class SlowAnswer(LogReader):
    """The broker's answer is on its way while further events are acknowledged."""

    log: UsageLog
    acknowledged_at: datetime

    def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        ends = super().end_offsets(partitions)
        self.acknowledged_at = datetime.now(UTC)
        self.log.send([Sent(id=f"meanwhile-{index}") for index in range(20)])
        return ends


def shard_of(log: UsageLog, reader: LogReader) -> Shard:
    return Shard(
        log.settings, reader=reader, connection=log.postgres, clock=lambda: datetime.now(UTC), stop=threading.Event()
    )


EVENT, CHANGE = b"\x01\x00\x00\x00\x01", b"\x02"  # what messages begin with; the first unpacks to 16 MiB


def on_log(*messages: tuple[int, bytes]) -> list[Message]:
    """Messages of partitions, each with the next offset of its partition."""
    offsets = Counter[int]()
    found: list[Message] = []
    for partition, value in messages:
        found.append(Message(partition, offsets[partition], 0, value))
        offsets[partition] += 1
    return found


def sealed_change(count: int) -> bytes:
    """A message of so many changes."""
    return seal_change(ChangeBatch(tenant_no=1, kind=ChangeKind.REPLAY, hashes=os.urandom(16 * count)))


def batches_of(messages: list[Message]) -> list[list[tuple[int, int]]]:
    """(partition, offset) of each batch that the messages are cut into."""
    found: list[list[tuple[int, int]]] = []
    while messages:
        taken, messages = cut_batch(messages)
        assert len({is_change(message.value) for message in taken}) == 1
        found.append([(message.partition, message.offset) for message in taken])
    return found


def test_a_batch_is_of_events_or_of_changes_and_a_change_holds_up_its_own_partition_alone() -> None:
    log = on_log((0, b"\x01"), (0, CHANGE), (1, b"\x01"), (0, b"\x01"), (1, b"\x01"), (2, CHANGE), (0, CHANGE))
    assert batches_of(log) == [[(0, 0), (1, 0), (1, 1)], [(0, 1), (2, 0)], [(0, 2)], [(0, 3)]]


def test_a_batch_has_a_limited_size_and_at_least_one_message() -> None:
    full, single = (sealed_change(count) for count in (MAX_CHANGES_A_MESSAGE, 1))
    assert [len(batch) for batch in batches_of(on_log(*[(0, full)] * 5, *[(1, full)] * 2))] == [4, 3]
    assert [len(batch) for batch in batches_of(on_log(*[(0, single)] * 500))] == [500]
    assert [len(batch) for batch in batches_of(on_log(*[(0, EVENT)] * 5, (1, b"\x01")))] == [5, 1]
    assert batches_of([]) == []


def test_a_drained_partition_is_complete_up_to_before_it_was_asked(log: UsageLog) -> None:
    with SlowAnswer(log.settings.kafka_bootstrap, log.settings.events_topic) as reader:
        reader.log = log
        shard = shard_of(log, reader)
        shard.start()
        batch = next(batch for batch in shard.batches() if batch is not None)
    assert not batch.messages
    assert batch.until.keys() == {0, 1, 2, 3}
    assert max(batch.until.values()) < reader.acknowledged_at
