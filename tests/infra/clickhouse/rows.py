"""Rows as the usage flow writes them, for tests of the queries."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from infra.clickhouse.client import Client
from infra.kafka.event_log import identity_hash
from schemas.catalogue import MeterEntry
from schemas.matching import event_groups, event_text, event_value, matches, parse_data
from schemas.meters import BY_VALUE, Aggregation
from schemas.money import EXACT

TENANT_NO = 7


@dataclass(frozen=True, kw_only=True)
class StoredEvent:
    id: str
    customer_no: int
    occurred_at: datetime
    data: str
    type: str = "request"
    source: str = "api"
    subject: str = "acme"
    received_at: datetime | None = None
    judged_at: datetime | None = None  # None: when it was received
    untimed: bool = False
    status: str = "counted"
    code: str = ""
    extensions: str = ""
    partition: int = 0
    offset: int = 0
    change_offset: int = -1
    effect: int | None = None  # None: as the status says
    meters: Sequence[MeterEntry] = field(default_factory=tuple)

    @property
    def counts(self) -> int:
        return int(self.status in ("counted", "unmatched")) if self.effect is None else self.effect

    def taken_back(self, *, change_offset: int) -> "StoredEvent":
        """The fact that a void adds."""
        return replace(self, status="voided", effect=-1, change_offset=change_offset)


def _row(event: StoredEvent, seq: int, tenant_no: int) -> dict[str, Any]:
    return {
        "tenant_no": tenant_no,
        "hash": identity_hash(tenant_no, event.source, event.id),
        "kafka_partition": event.partition,
        "kafka_offset": event.offset,
        "kafka_index": 0,
        "shard": 0,
        "seq": seq,
        "received_at": event.received_at or event.occurred_at,
        "occurred_at": event.occurred_at,
        "untimed": event.untimed,
        "source": event.source,
        "id": event.id,
        "type": event.type,
        "subject": event.subject,
        "data": event.data,
        "extensions": event.extensions,
    }


def _insert(client: Client, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """A redo of an intent may cut its blocks anew, so ClickHouse's own deduplication of blocks is kept out of it."""
    settings = {"insert_deduplication_token": uuid4().hex, "async_insert": 0}
    client.insert(table, [list(row.values()) for row in rows], column_names=list(rows[0]), settings=settings)


def store_events(
    client: Client, events: Sequence[StoredEvent], *, seq: int = 1, redo: bool = False, tenant_no: int = TENANT_NO
) -> None:
    """Insert raw rows and windows of one intent; with `redo` once more, as after a crash between the two stores."""
    raw = [
        _row(event, seq, tenant_no)
        | {"customer_no": event.customer_no, "status": event.status, "code": event.code, "effect": event.counts,
           "change_offset": event.change_offset,
           "judged_at": event.judged_at or event.received_at or event.occurred_at}
        for event in events
    ]  # fmt: skip
    minutes: dict[tuple[Any, ...], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
    values: list[dict[str, Any]] = []
    for event in events:
        data = parse_data(event.data)
        for meter in event.meters:
            value = event_value(meter, data) if matches(meter, data) else None
            if value is None or not event.counts:
                continue
            groups = event_groups(meter, data)
            if meter.aggregation in BY_VALUE:
                values.append(_value_row(event, meter, value, seq))
                continue
            minute = event.occurred_at.replace(second=0, microsecond=0)
            key = (meter.meter_no, meter.revision, event.customer_no, minute, groups)
            count, total = minutes[key]
            added = EXACT.multiply(value, Decimal(event.counts)) if meter.value else Decimal(0)
            minutes[key] = (count + event.counts, EXACT.add(total, added))
    usage = [
        {"meter_no": m, "revision": r, "customer_no": c, "minute": minute, "group_values": list(groups), "shard": 0,
         "seq": seq, "event_count": count, "total": total}
        for (m, r, c, minute, groups), (count, total) in minutes.items()
    ]  # fmt: skip
    for _ in range(2 if redo else 1):
        for table, rows in (("events", raw), ("usage_minutes", usage), ("usage_values", values)):
            if rows:
                _insert(client, table, rows)


def _value_row(event: StoredEvent, meter: MeterEntry, value: Decimal, seq: int) -> dict[str, Any]:
    data = parse_data(event.data)
    return {
        "meter_no": meter.meter_no,
        "revision": meter.revision,
        "customer_no": event.customer_no,
        "occurred_at": event.occurred_at,
        "group_values": list(event_groups(meter, data)),
        "received_at": event.received_at or event.occurred_at,
        "kafka_partition": event.partition,
        "kafka_offset": event.offset,
        "kafka_index": 0,
        "effect": event.counts,
        "shard": 0,
        "seq": seq,
        "value": value,
        "text": event_text(meter, data) if meter.aggregation is Aggregation.UNIQUE_COUNT else "",
    }


def store_copies(client: Client, events: Sequence[StoredEvent], *, seq: int = 1, tenant_no: int = TENANT_NO) -> None:
    """Insert later copies of events."""
    _insert(client, "event_copies", [_row(event, seq, tenant_no) for event in events])
