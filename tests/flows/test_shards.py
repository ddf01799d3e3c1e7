"""How far a shard says it is complete."""

import threading
from datetime import UTC, datetime

from flows.shards import Shard
from infra.kafka.consumer import LogReader
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


def test_a_drained_partition_is_complete_up_to_before_it_was_asked(log: UsageLog) -> None:
    with SlowAnswer(log.settings.kafka_bootstrap, log.settings.events_topic) as reader:
        reader.log = log
        shard = Shard(
            log.settings,
            reader=reader,
            connection=log.postgres,
            clock=lambda: datetime.now(UTC),
            stop=threading.Event(),
        )
        shard.start()
        batch = next(batch for batch in shard.batches() if batch is not None)
    assert not batch.messages
    assert batch.until.keys() == {0, 1, 2, 3}
    assert max(batch.until.values()) < reader.acknowledged_at
