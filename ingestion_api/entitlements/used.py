"""How much of metered entitlements is used: by the flow's counters, or by stored usage where they are not complete yet.

A shard's row of a period appears once the flow has seeded it. A period with fewer rows than shards has usage that no
counter holds: its answer comes from the usage windows, which the flow fills whatever the entitlement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import structlog

from infra.clickhouse.client import ClickHouseError, Client
from infra.clickhouse.usage import Span, usage_totals
from infra.postgres import entitlements
from infra.postgres.meters import load_entries
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import counters_as_of, usage_as_of
from infra.settings import Settings
from ingestion_api.fields import MAX_INSTANT
from pricing.entitlements import EntitlementPeriod
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.money import EXACT

MILLISECOND = Decimal("0.001")

_log = structlog.get_logger("meterline.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """As of when usage is complete, and how long ago that is; None where nothing is known of that."""

    as_of: datetime | None
    lag_seconds: Decimal | None


UNKNOWN = Freshness(as_of=None, lag_seconds=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Every event acknowledged before `fresh.as_of` is in `quantity`."""

    quantity: Decimal
    fresh: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What PostgreSQL says of some entitlements, by their numbers: `counted` is complete, `missing` is to be measured
    from stored usage, which is at least as fresh as `stored_fresh`."""

    counted: dict[int, Used]
    missing: dict[int, Span]
    meters: dict[int, MeterEntry]
    stored_fresh: Freshness


def load_counters(
    connection: PgConnection, periods: Sequence[tuple[Row, EntitlementPeriod]], *, now: datetime, settings: Settings
) -> Counters:
    """The counters of metered entitlements in their present periods."""
    if not periods:
        return Counters(counted={}, missing={}, meters={}, stored_fresh=UNKNOWN)
    topic, partitions = settings.events_topic, settings.events_partitions
    fresh = _freshness(counters_as_of(connection, topic=topic, partitions=partitions), now)
    found = entitlements.load_used(
        connection, [(row["no"], period.start) for row, period in periods], shards=settings.flow_shards
    )
    counted = {
        row["no"]: Used(quantity=found[row["no"], period.start], fresh=fresh)
        for row, period in periods
        if (row["no"], period.start) in found
    }
    missing = {row["no"]: _span(row, period) for row, period in periods if row["no"] not in counted}
    if not missing:
        return Counters(counted=counted, missing={}, meters={}, stored_fresh=UNKNOWN)
    return Counters(
        counted=counted,
        missing=missing,
        meters=load_entries(connection, meter_nos=sorted({span.meter_no for span in missing.values()})),
        stored_fresh=_freshness(usage_as_of(connection, topic=topic, partitions=partitions), now),
    )


def measure_missing(clickhouse: Client, counters: Counters, *, tenant_no: int) -> dict[int, Used]:
    """All of the counters, the missing ones from stored usage. Where ClickHouse can't say, what is used is taken for
    nothing, as of no instant at all. Hold no transaction meanwhile."""
    if not counters.missing:
        return counters.counted
    try:
        totals = usage_totals(
            clickhouse, tenant_no=tenant_no, meters=counters.meters, spans=list(counters.missing.values())
        )
    except (ClickHouseError, Reject) as error:  # the latter: too many events in the cut minute at a period's start
        _log.warning("usage not measured", entitlements=len(counters.missing), error=f"{type(error).__name__}: {error}")
        unknown = Used(quantity=Decimal(0), fresh=UNKNOWN)
        return counters.counted | dict.fromkeys(counters.missing, unknown)
    measured: dict[int, Used] = {}
    for number, span in counters.missing.items():
        quantity = Decimal(0)
        for value in totals[span].values():
            quantity = EXACT.add(quantity, value)
        measured[number] = Used(quantity=quantity, fresh=counters.stored_fresh)
    return counters.counted | measured


def _span(row: Row, period: EntitlementPeriod) -> Span:
    """All of the period, as its counter will hold it: events that say a later time than now count too."""
    return Span(
        customer_no=row["customer_no"], meter_no=row["meter_no"], start=period.start, end=period.end or MAX_INSTANT
    )


def _freshness(as_of: datetime | None, now: datetime) -> Freshness:
    if as_of is None:
        return UNKNOWN
    microseconds = max(0, (now - as_of) // datetime.resolution)
    return Freshness(as_of=as_of, lag_seconds=(Decimal(microseconds) / 1_000_000).quantize(MILLISECOND))
