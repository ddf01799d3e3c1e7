"""Counters of entitlements against usage of the same periods."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from infra.clickhouse.usage import usage_totals
from infra.clickhouse.usage_query import Span
from infra.postgres.catalogue import Change
from infra.postgres.counters import part_of
from infra.postgres.pool import Row
from pricing.entitlements import Reset, entitlement_period
from schemas.catalogue import EntitlementEntry, MeterEntry
from schemas.counters import combine, holds
from tests.support.usage_log import UsageLog

FAR = datetime(2200, 1, 1, tzinfo=UTC)

#: By entitlement and start of the period.
Figures = dict[tuple[int, datetime], Decimal]


def counted(log: UsageLog, meters: Mapping[int, MeterEntry], changes: Iterable[Change], *, shards: int = 1) -> Figures:
    """What the counters of these entitlements say, as far as all shards have one."""
    found: Figures = {}
    for entry in _entries(changes):
        meter = meters[entry.meter_no]
        by_start: dict[datetime, list[Row]] = {}
        for row in log.postgres.execute(
            "SELECT * FROM entitlement_counters WHERE entitlement_no = %s AND meter_revision = %s",
            (entry.entitlement_no, meter.revision),
        ):
            if holds(meter.aggregation, shard=row["shard"], shards=shards, seeded_shards=row["shards"]):
                by_start.setdefault(row["period_start"], []).append(row)
        for start, rows in by_start.items():
            if not any(row["is_stale"] for row in rows) and sum(row["shard"] < shards for row in rows) == shards:
                found[entry.entitlement_no, start] = combine(meter.aggregation, map(part_of, rows))
    return found


def measured(
    log: UsageLog, meters: Mapping[int, MeterEntry], changes: Iterable[Change], keys: Iterable[tuple[int, datetime]]
) -> Figures:
    """What usage says of the same periods."""
    entries = {entry.entitlement_no: entry for entry in _entries(changes)}
    spans: dict[tuple[int, datetime], Span] = {}
    for number, start in keys:
        entry = entries[number]
        period = entitlement_period(
            start, Reset(entry.reset), starts_at=entry.starts_at, timezone="UTC", billing_anchor=entry.starts_at
        )
        spans[number, start] = Span(
            customer_no=entry.customer_no, meter_no=entry.meter_no, start=start, end=period.end or FAR
        )
    totals = usage_totals(log.clickhouse, tenant_no=1, meters=meters, spans=list(spans.values()))
    return {key: totals[span].whole or Decimal(0) for key, span in spans.items()}


def _entries(changes: Iterable[Change]) -> list[EntitlementEntry]:
    return [change.entry for change in changes if isinstance(change.entry, EntitlementEntry)]
