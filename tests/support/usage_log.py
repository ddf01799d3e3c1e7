"""A log of usage events for tests: what a sender sends, put on the topic as ingest would put it."""

import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from flows.__main__ import reason_of, run
from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.kafka.changes import change_messages
from infra.kafka.consumer import LogReader
from infra.kafka.event_log import identity_hash, partition_of, seal
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.migrate import migrate
from infra.postgres.catalogue import Change, append_changes
from infra.postgres.pool import PgConnection
from infra.postgres.pool import connect as connect_postgres
from infra.settings import Settings
from schemas.catalogue import EntitlementEntry, EntryKind, MeterEntry, SubjectEntry, meter_key
from schemas.events import ChangeKind, EventBatch
from schemas.instants import to_micros
from schemas.meters import Aggregation
from tests.support.flow_process import FlowProcess

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
WAIT_SECONDS = 40


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One event of a sender. `data` is an object, or JSON text exactly as it was sent."""

    id: str
    subject: str = "acme"
    type: str = "llm.request"
    source: str = "api"
    time: datetime = NOON
    data: dict[str, Any] | str = field(default_factory=dict)
    tenant_no: int = 1
    extensions: str = ""

    @property
    def text(self) -> str:
        return self.data if isinstance(self.data, str) else json.dumps(self.data)

    def at(self, time: datetime) -> "Sent":
        return replace(self, time=time)


def batch_of(events: Sequence[Sent]) -> EventBatch:
    """Events of one tenant and one partition as a batch."""
    tenant_no = events[0].tenant_no
    sources = sorted({event.source for event in events})
    types = sorted({event.type for event in events})

    def blob(texts: Iterable[str]) -> tuple[bytes, bytes]:
        encoded = [text.encode() for text in texts]
        return b"".join(encoded), np.array([len(text) for text in encoded], "<u2").tobytes()

    ids, id_lengths = blob(event.id for event in events)
    subjects, subject_lengths = blob(event.subject for event in events)
    data, data_lengths = blob(event.text for event in events)
    return EventBatch(
        tenant_no=tenant_no,
        count=len(events),
        hashes=b"".join(identity_hash(tenant_no, event.source, event.id) for event in events),
        times=np.array([to_micros(event.time) for event in events], "<i8").tobytes(),
        ids=ids,
        id_lengths=id_lengths,
        subjects=subjects,
        subject_lengths=subject_lengths,
        sources=sources,
        source_codes=np.array([sources.index(event.source) for event in events], "<u2").tobytes(),
        types=types,
        type_codes=np.array([types.index(event.type) for event in events], "<u2").tobytes(),
        data=data,
        data_lengths=data_lengths,
        extensions={index: event.extensions for index, event in enumerate(events) if event.extensions},
    )


def meter(no: int, **fields: Any) -> MeterEntry:
    """A meter of llm.request: the sum of tokens, unless said otherwise."""
    given: dict[str, Any] = {
        "meter_no": no,
        "revision": 1,
        "event_type": "llm.request",
        "aggregation": Aggregation.SUM,
        "value": "$.tokens",
        "filters": (),
        "group_by": (),
    }
    return MeterEntry(**(given | fields))


def entitlement(
    no: int,
    *,
    meter_no: int,
    starts_at: datetime,
    ends_at: datetime | None = None,
    customer_no: int = 1,
    reset: str = "never",
) -> Change:
    """An entitlement of a customer to a meter, from an instant on; in one period that never ends, or by `reset`."""
    entry = EntitlementEntry(
        entitlement_no=no,
        customer_no=customer_no,
        meter_no=meter_no,
        reset=reset,
        timezone="UTC",
        alignment="anniversary",
        billing_anchor=starts_at,
        billing_period="month",
        billing_period_count=1,
        starts_at=starts_at,
        ends_at=ends_at,
    )
    return Change(kind=EntryKind.ENTITLEMENT, tenant_no=1, key=str(no), entry=entry)


class UsageLog:
    """The stores and topics of one test, a sender, and flows as processes of their own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._folder = folder
        self.postgres: PgConnection = connect_postgres(settings.postgres_dsn)
        self.clickhouse: Client = connect_clickhouse(settings.clickhouse_url)
        migrate(self.postgres, self.clickhouse)
        ensure_topics(settings)
        self._producer = Producer(settings.kafka_bootstrap, linger_ms=1, timeout_seconds=20, queued_bytes=1 << 26)
        self._reader = LogReader(settings.kafka_bootstrap, settings.events_topic)
        self.messages = 0
        self._flows: list[FlowProcess] = []

    def close(self) -> None:
        for flow in self._flows:
            flow.kill()
        self._producer.close(5)
        self._reader.close()
        self.postgres.close()
        self.clickhouse.close()

    def catalogue(self, changes: Iterable[Change]) -> int:
        with self.postgres.transaction():
            return append_changes(self.postgres, list(changes))

    def customers(self, subjects: dict[str, int], *, tenant_no: int = 1) -> int:
        return self.catalogue(
            Change(kind=EntryKind.SUBJECT, tenant_no=tenant_no, key=subject, entry=SubjectEntry(customer_no=no))
            for subject, no in subjects.items()
        )

    def meters(self, *meters: MeterEntry, tenant_no: int = 1) -> int:
        return self.catalogue(
            Change(kind=EntryKind.METER, tenant_no=tenant_no, key=meter_key(m), entry=m) for m in meters
        )

    def send(self, events: Sequence[Sent]) -> None:
        """Publish, one message a tenant and partition, and wait for the broker."""
        parts: dict[tuple[int, int], list[Sent]] = {}
        for event in events:
            identity = identity_hash(event.tenant_no, event.source, event.id)
            partition = partition_of(identity, self.settings.events_partitions)
            parts.setdefault((event.tenant_no, partition), []).append(event)
        self.publish([(partition, seal(batch_of(part))) for (_, partition), part in parts.items()])

    def publish(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Put raw messages on the topic."""
        failures: list[str | None] = []
        for partition, value in messages:
            self._producer.send(self.settings.events_topic, partition, value, [], failures.append)
        wait_for(lambda: (self._producer.poll(), len(failures) == len(messages))[1], "the broker takes the messages")
        assert not any(failures), failures
        self.messages += len(messages)

    def change(self, kind: ChangeKind, events: Iterable[Sent]) -> None:
        """Void or replay these events, and wait for the broker."""
        by_tenant: dict[int, list[bytes]] = {}
        for event in events:
            identity = identity_hash(event.tenant_no, event.source, event.id)
            by_tenant.setdefault(event.tenant_no, []).append(identity)
        partitions = self.settings.events_partitions
        self.publish([
            message
            for tenant_no, identities in by_tenant.items()
            for message in change_messages(
                tenant_no=tenant_no, kind=kind, identities=identities, partitions=partitions
            )
        ])  # fmt: skip

    def start_flow(self, **environment: str) -> FlowProcess:
        """A flow process. `environment` adds METERLINE_… settings by their lower-case names."""
        names = ("postgres_dsn", "clickhouse_url", "kafka_bootstrap", "events_topic", "balances_topic", "system_topic")
        given = {f"METERLINE_{name.upper()}": str(getattr(self.settings, name)) for name in names}
        given |= {f"METERLINE_{name.upper()}": value for name, value in environment.items()}
        flow = FlowProcess(given, self._folder / f"flow-{len(self._flows)}.log")
        self._flows.append(flow)
        return flow

    @contextmanager
    def flow(self, **changes: Any) -> Generator["RunningFlow"]:
        """A flow in a thread of this process, for the length of a block; it must end cleanly."""
        flow = RunningFlow(self.settings.model_copy(update=changes))
        try:
            yield flow
        finally:
            flow.stop()
        flow.raise_failure()

    def wait_stored(self, *flows: "RunningFlow") -> None:
        """Wait until everything that stands on the log is in ClickHouse."""

        def stored() -> bool:
            for flow in flows:
                flow.raise_failure()
            row = self.postgres.execute(
                "SELECT coalesce(sum(next_offset), 0) AS read,"
                " (SELECT count(*) FROM intents WHERE state = 'pending') AS pending"
                " FROM shard_offsets WHERE topic = %s",
                (self.settings.events_topic,),
            ).fetchone()
            assert row is not None
            ends = self._reader.end_offsets(list(range(self.settings.events_partitions)))
            return row["read"] == sum(ends.values()) and row["pending"] == 0

        wait_for(stored, "everything published is stored")

    def pending(self) -> int:
        """Batches whose offsets have moved and whose rows are not surely stored."""
        row = self.postgres.execute("SELECT count(*) AS n FROM intents WHERE state = 'pending'").fetchone()
        assert row is not None
        return row["n"]

    def usage(self) -> dict[tuple[int, int, datetime, tuple[str, ...]], tuple[int, Decimal]]:
        """{(meter, customer, minute, groups): (events, sum)}."""
        rows = self.clickhouse.query(
            "SELECT meter_no, customer_no, minute, group_values, sum(event_count), sum(total) FROM usage_minutes FINAL"
            " GROUP BY 1, 2, 3, 4"
        ).result_rows
        return {
            (meter_no, customer, minute.replace(tzinfo=UTC), tuple(groups)): (count, total)
            for meter_no, customer, minute, groups, count, total in rows
        }

    def total(self, meter_no: int) -> tuple[int, Decimal]:
        """Events and sum of a meter over everything."""
        [(count, units)] = self.clickhouse.query(
            "SELECT sum(event_count), sum(total) FROM usage_minutes FINAL WHERE meter_no = {meter:UInt32}",
            parameters={"meter": meter_no},
        ).result_rows
        return count, units

    def used(self, entitlement_no: int) -> Decimal | None:
        """What the counters of an entitlement say, over all its periods; None when there are none."""
        row = self.postgres.execute(
            "SELECT sum(used) AS used FROM entitlement_counters WHERE entitlement_no = %s AND NOT is_stale",
            (entitlement_no,),
        ).fetchone()
        return row["used"] if row else None

    def events(self) -> dict[str, tuple[str, str, int]]:
        """{id: (status, code, customer)} as it is now; an id that is stored twice fails."""
        rows = self.clickhouse.query(
            "SELECT id, toString(argMax(status, change_offset)), argMax(code, change_offset),"
            " argMax(customer_no, change_offset) FROM events FINAL"
            " GROUP BY id, hash, kafka_partition, kafka_offset, kafka_index"
        ).result_rows
        found = {event_id: (status, code, customer) for event_id, status, code, customer in rows}
        assert len(found) == len(rows), "an event is stored twice"
        return found

    def copies(self) -> list[tuple[str, str]]:
        """(id, data) of later copies."""
        return sorted(self.clickhouse.query("SELECT id, data FROM event_copies FINAL").result_rows)


class RunningFlow:
    """A flow in a thread of this process, without the seconds that a process takes to start."""

    def __init__(self, settings: Settings) -> None:
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(settings,), daemon=True)
        self._thread.start()

    def _run(self, settings: Settings) -> None:
        try:
            run(settings, self._stop)
        except Exception as failure:
            self.failure = reason_of(failure)

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stop.set()
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive(), "the flow does not end"

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure


def minute_of(time: datetime) -> datetime:
    return time - timedelta(seconds=time.second, microseconds=time.microsecond)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)
