"""Usage of a meter, whatever its aggregation: by windows, customers and groups, or of many spans at once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from infra.clickhouse import levels, minutes, values
from infra.clickhouse.client import Client
from infra.clickhouse.usage_query import Span, SpanUsage, UsageKey, UsageQuery
from schemas.catalogue import MeterEntry
from schemas.instants import MINUTE_MICROS, from_micros
from schemas.meters import ADDITIVE, Aggregation

#: Spans of one query: as parameters they stay below what ClickHouse takes.
SPANS_A_QUERY = 1_000


def query_usage(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int) -> dict[UsageKey, Decimal]:
    """Up to `limit` rows after `after`, in the order of their keys; windows that hold nothing are absent.

    Averages (avg, weighted_sum) are rounded to 12 decimals, half away from zero; everything else is exact. Raises
    Reject `usage.edge_too_large` (see `edges`), `usage.too_large` and `usage.too_many_groups` (see `values`, `levels`).
    """
    match query.aggregated_by:
        case Aggregation.WEIGHTED_SUM:
            return levels.window_values(client, query, after=after, limit=limit)
        case aggregation if aggregation in ADDITIVE:
            return minutes.window_values(client, query, after=after, limit=limit)
        case _:
            return values.window_values(client, query, after=after, limit=limit)


def usage_groups(client: Client, query: UsageQuery, *, limit: int) -> list[tuple[int, tuple[bytes, ...]]]:
    """The customers and groups that have usage anywhere in the range, in order, up to `limit`."""
    whole = replace(query, bounds=[query.start, query.end])
    return [(key.customer_no, key.groups) for key in query_usage(client, whole, after=None, limit=limit)]


def usage_totals(
    client: Client, *, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> dict[Span, SpanUsage]:
    """What each span holds, as a whole and by the meter's full groups. Every meter that a span names is in `meters`.

    One query an aggregation for up to SPANS_A_QUERY spans, and one for the parts of minutes at the ends of those that
    are stored by minute. Raises Reject as `query_usage` does.
    """
    totals: dict[Span, SpanUsage] = {}
    by_kind: dict[Aggregation | None, list[Span]] = {}  # None: all that are stored by minute
    for span in dict.fromkeys(spans):
        aggregation = meters[span.meter_no].aggregation
        by_kind.setdefault(None if aggregation in ADDITIVE else aggregation, []).append(span)
    for aggregation, own in by_kind.items():
        for offset in range(0, len(own), SPANS_A_QUERY):
            page = own[offset : offset + SPANS_A_QUERY]
            match aggregation:
                case None:
                    totals |= minutes.span_values(client, tenant_no=tenant_no, meters=meters, spans=page)
                case Aggregation.WEIGHTED_SUM:
                    totals |= levels.span_values(client, meters=meters, spans=page)
                case _:
                    totals |= values.span_values(client, aggregation=aggregation, meters=meters, spans=page)
    return totals


def stored_range(
    client: Client, *, meter: MeterEntry, customer_nos: Sequence[int] | None
) -> tuple[datetime, datetime] | None:
    """The first and the last minute that hold usage of the meter; None when there is none."""
    selected = (
        "meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND ({all_customers:Bool} OR customer_no IN {customer_nos:Array(UInt64)})"
    )
    parameters: dict[str, object] = {
        "meter_no": meter.meter_no,
        "revision": meter.revision,
        "all_customers": customer_nos is None,
        "customer_nos": list(customer_nos or ()),
    }
    if meter.aggregation in ADDITIVE:
        return _minute_range(client, selected, parameters)
    sql = (
        "SELECT count(), min(toUnixTimestamp64Micro(occurred_at)), max(toUnixTimestamp64Micro(occurred_at))"  # noqa: S608 - texts of this package
        f" FROM usage_values WHERE {values.kept_sql(selected)}"
    )
    count, first, last = client.query(sql, parameters=parameters).result_rows[0]
    return _minutes_of(first, last) if count else None


def _minute_range(client: Client, selected: str, parameters: dict[str, object]) -> tuple[datetime, datetime] | None:
    """Only where anything was ever taken back must minutes be added up to know whether they hold something."""
    minute = "toUnixTimestamp64Second(minute) * 1000000 AS micros"
    rows = f"FROM usage_minutes FINAL WHERE {selected} GROUP BY minute HAVING sum(event_count) <> 0"
    quick = (
        "SELECT count(), min(micros), max(micros), min(event_count) FROM"  # noqa: S608 - texts of this package
        f" (SELECT {minute}, event_count FROM usage_minutes WHERE {selected})"
    )
    exact = f"SELECT count(), min(micros), max(micros) FROM (SELECT {minute} {rows})"  # noqa: S608 - as above
    count, first, last, least = client.query(quick, parameters=parameters).result_rows[0]
    if count and least <= 0:
        count, first, last = client.query(exact, parameters=parameters).result_rows[0]
    return _minutes_of(first, last) if count else None


def _minutes_of(first: int, last: int) -> tuple[datetime, datetime]:
    return from_micros(first // MINUTE_MICROS * MINUTE_MICROS), from_micros(last // MINUTE_MICROS * MINUTE_MICROS)
