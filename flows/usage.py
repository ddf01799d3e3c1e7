"""The usage flow: from the log of events to usage windows and entitlement counters, each event exactly once.

    log → decode → first copies → attribute → combine → store

The unit in the stream is a batch of many messages, never one event: a stage costs the same for one as for thousands.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

import bytewax.operators as op
import numpy as np
import structlog
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.attribute import Attributed, attribute
from flows.catalogue import Catalogue
from flows.changes import Changes, decode_changes
from flows.combine import Minutes, combine
from flows.decode import decode
from flows.dedup import Dedup, IdentityFilter
from flows.events import Events
from flows.groups import GroupWatch
from flows.shards import LogBatch, LogSource, Shard
from flows.sink import Judged, Sink
from infra.clickhouse.client import Client
from infra.clickhouse.sink import count_identities, identity_pages
from infra.kafka.event_log import is_change
from infra.postgres.catalogue import load_changes
from infra.postgres.meters import mark_groups_over_limit
from infra.postgres.poison import PoisonMessage
from infra.postgres.pool import PgConnection
from schemas.errors import InvariantBroken

#: More poison than this, in number and in share, is no accident: the flow stops rather than sort out a whole topic.
MAX_POISON_MESSAGES = 1_000
MAX_POISON_SHARE_PERCENT = 50

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    batch: LogBatch
    events: Events | None
    changes: list[Changes]
    poison: list[PoisonMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distinct:
    batch: LogBatch
    firsts: Events | None
    copies: Events | None
    changes: list[Changes]
    poison: list[PoisonMessage]


def usage_flow(shard: Shard, stages: "Stages", sink: Sink) -> Dataflow:
    """The dataflow of one shard; run it with one worker."""
    flow = Dataflow("usage")
    batches = op.input("log", flow, LogSource(shard))
    decoded = op.map("decode", batches, stages.decode)
    distinct = op.map("first_copies", decoded, stages.recognise_copies)
    attributed = op.map("attribute", distinct, stages.attribute)
    combined = op.map("combine", attributed, stages.combine)
    op.output("store", combined, StoreSink(sink))
    return flow


class Stages:
    """What the stages share: the catalogue, the identities, the bounds. Each is called with batches in log order."""

    def __init__(
        self, *, connection: PgConnection, catalogue: Catalogue, dedup: Dedup, groups: GroupWatch, partitions: int
    ) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._dedup = dedup
        self._groups = groups
        self._partitions = partitions
        self._messages = 0
        self._poison = 0

    def decode(self, batch: LogBatch) -> Decoded:
        """Messages to columns. Raises InvariantBroken when too much of the log can't be read."""
        if not batch.messages:
            return Decoded(batch=batch, events=None, changes=[], poison=[])
        events: Events | None = None
        changes: list[Changes] = []
        if is_change(batch.messages[0].value):
            changes, poison = decode_changes(batch.messages, partitions=self._partitions)
        else:
            events, poison = decode(batch.messages, partitions=self._partitions)
        self._messages += len(batch.messages)
        self._poison += len(poison)
        for message in poison:
            log.warning(
                "poison message set aside", partition=message.partition, offset=message.offset, reason=message.reason
            )
        if self._poison > MAX_POISON_MESSAGES and self._poison * 100 > self._messages * MAX_POISON_SHARE_PERCENT:
            raise InvariantBroken(
                "log.poisoned",
                f"{self._poison} of {self._messages} messages since the start can't be read: is this the right topic,"
                " and this release as new as the one that writes to it?",
            )
        return Decoded(batch=batch, events=events, changes=changes, poison=poison)

    def recognise_copies(self, decoded: Decoded) -> Distinct:
        """Set copies of earlier events aside."""
        firsts, copies = decoded.events, None
        if firsts is not None:
            assert decoded.batch.intent is not None
            first = self._dedup.judge(firsts, seq=decoded.batch.intent.seq)
            if not first.all():
                copies = firsts.take(np.flatnonzero(~first))
                firsts = firsts.take(np.flatnonzero(first)) if first.any() else None
        return Distinct(
            batch=decoded.batch, firsts=firsts, copies=copies, changes=decoded.changes, poison=decoded.poison
        )

    def attribute(self, distinct: Distinct) -> Judged:
        """Judge the first copies by exactly the catalogue that the batch names."""
        version = distinct.batch.catalogue_version
        if version > self._catalogue.version:
            with self._connection.transaction():
                changes = load_changes(self._connection, after=self._catalogue.version, up_to=version)
            self._catalogue.advance(changes, version)
        if version != self._catalogue.version:
            raise InvariantBroken("catalogue.went_back", f"version {version} after {self._catalogue.version}")
        attributed: Attributed | None = None
        if distinct.firsts is not None:
            attributed = attribute(distinct.firsts, self._catalogue)
        return Judged(
            log=distinct.batch,
            poison=distinct.poison,
            copies=distinct.copies,
            changes=distinct.changes,
            attributed=attributed,
            combined=[],
        )

    def combine(self, judged: Judged) -> Judged:
        """Minutes of every meter that adds up. A meter with too many groups is marked, for users to see."""
        if judged.attributed is None:
            return judged
        combined: list[Minutes] = combine(judged.attributed)
        for meter in self._groups.watch(judged.attributed, combined):
            assert judged.log.intent is not None, "what has events has an intent"
            with self._connection.transaction():  # by itself: who dies before it sees the groups again
                at = judged.log.intent.created_at
                mark_groups_over_limit(self._connection, meter_no=meter.meter_no, revision=meter.revision, at=at)
        return replace(judged, combined=combined)


def rebuilt_filter(client: Client, shard: Shard, window: timedelta) -> IdentityFilter:
    """The filter of all identities that a batch still to come can be a copy of."""
    since = None if shard.stored_since is None else shard.stored_since - window
    count = count_identities(client, shard.partitions, since=since)
    known = IdentityFilter(count)
    for page in identity_pages(client, shard.partitions, since=since, count=count):
        known.add(np.frombuffer(page, "<u8").reshape(-1, 2))
    log.info("identities loaded", count=count, window_days=window.days)
    return known


class StoreSink(DynamicSink[Judged]):
    """The sink as Bytewax writes to it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "StorePartition":
        del step_id, worker_index, worker_count
        return StorePartition(self._sink)


class StorePartition(StatelessSinkPartition[Judged]):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write_batch(self, items: list[Judged]) -> None:
        for item in items:
            self._sink.store(item)
