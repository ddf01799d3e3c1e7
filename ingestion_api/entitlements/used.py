"""How much of metered entitlements is used: by the flow's counters, or by stored usage where they are not complete yet.

A shard's row of a period appears once the flow has seeded it. A period with fewer rows than shards has usage that no
counter holds: its answer comes from stored usage, which the flow fills whatever the entitlement. So does always that of
a time average, which moves by itself, and for a moment that of min, max and latest whose value was taken back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.clickhouse.usage_query import Span
from infra.postgres.counters import load_used
from infra.postgres.meters import complete_until, load_entries
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import usage_as_of
from infra.settings import Settings
from ingestion_api.entitlements.stored import StoredUsage
from ingestion_api.fields import MAX_INSTANT
from pricing.entitlements import EntitlementPeriod
from schemas.catalogue import MeterEntry
from schemas.meters import Aggregation

MILLISECOND = Decimal("0.001")


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


def complete(counted: dict[int, Used]) -> Counters:
    """Counters of which nothing is missing."""
    return Counters(counted=counted, missing={}, meters={}, stored_fresh=UNKNOWN)


def load_counters(
    connection: PgConnection,
    periods: Sequence[tuple[Row, EntitlementPeriod]],
    *,
    as_of: datetime | None,
    now: datetime,
    settings: Settings,
) -> Counters:
    """The counters of metered entitlements in their present periods, which have all that was acknowledged before
    `as_of`. A row has the `now` of its customer, by a test clock maybe; `now` itself is the real one."""
    if not periods:
        return complete({})
    fresh = freshness(as_of, now)
    found = load_used(connection, [(row["no"], period.start) for row, period in periods], shards=settings.flow_shards)
    counted = {
        row["no"]: Used(quantity=found[row["no"], period.start], fresh=fresh)
        for row, period in periods
        if (row["no"], period.start) in found
    }
    missing = [(row, period) for row, period in periods if row["no"] not in counted]
    if not missing:
        return complete(counted)
    # Before the revisions that readers use: those have all that is before it.
    stored_until = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    meters = load_entries(connection, meter_nos=sorted({row["meter_no"] for row, _ in missing}))
    return Counters(
        counted=counted,
        missing={row["no"]: _span(row, period, meters[row["meter_no"]], row["now"]) for row, period in missing},
        meters=meters,
        stored_fresh=freshness(complete_until(connection, meter_nos=sorted(meters), as_of=stored_until), now),
    )


def measure_missing(stored: StoredUsage, counters: Counters, *, tenant_no: int) -> dict[int, Used]:
    """All of the counters, the missing ones from stored usage. Hold no transaction meanwhile.

    Raises what ClickHouse raises (503 to a client) and Reject as `usage_totals` does: what can't be measured is not
    guessed, since a guess would let a hard limit pass in silence.
    """
    if not counters.missing:
        return counters.counted
    totals = stored.totals(tenant_no=tenant_no, meters=counters.meters, spans=list(counters.missing.values()))
    measured = {
        number: Used(quantity=totals[span].whole or Decimal(0), fresh=counters.stored_fresh)
        for number, span in counters.missing.items()
    }
    return counters.counted | measured


def _span(row: Row, period: EntitlementPeriod, meter: MeterEntry, now: datetime) -> Span:
    """All of the period, as its counter will hold it: events that say a later time than now count too. A time average
    is that of the period so far."""
    end = period.end or MAX_INSTANT
    if meter.aggregation is Aggregation.WEIGHTED_SUM:
        end = min(end, max(now, period.start + datetime.resolution))  # at the very start: the level that it begins with
    return Span(customer_no=row["customer_no"], meter_no=row["meter_no"], start=period.start, end=end)


def freshness(as_of: datetime | None, now: datetime) -> Freshness:
    """How fresh what is complete up to `as_of` is."""
    if as_of is None:
        return UNKNOWN
    microseconds = max(0, (now - as_of) // datetime.resolution)
    return Freshness(as_of=as_of, lag_seconds=(Decimal(microseconds) / 1_000_000).quantize(MILLISECOND))
