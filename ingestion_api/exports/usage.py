"""The rows of usage: what each meter counted, by customer, group and calendar window."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from infra.clickhouse.client import Client
from infra.clickhouse.usage import query_usage
from infra.clickhouse.usage_query import UsageKey, UsageQuery
from infra.postgres.customers import load_external_ids
from infra.postgres.meters import load_entries
from infra.postgres.pool import Database
from ingestion_api.exports.tables import Column, Kind, Values
from schemas.catalogue import MeterEntry
from schemas.errors import Retry
from schemas.windows import WindowSize, window_bounds

ROWS_A_QUERY = 5_000

USAGE_COLUMNS = (
    Column("meter", Kind.TEXT, is_required=True),
    Column("aggregation", Kind.TEXT, is_required=True),
    Column("customer", Kind.TEXT, is_required=True),
    Column("group", Kind.TEXT, is_required=True),
    Column("window_start", Kind.INSTANT, is_required=True),
    Column("window_end", Kind.INSTANT, is_required=True),
    Column("value", Kind.NUMBER, is_required=True),
    Column("as_of", Kind.INSTANT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMeter:
    """A meter as readers use it when the export begins. `as_of`: every event acknowledged before it is in the rows."""

    key: str
    entry: MeterEntry
    as_of: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedUsage:
    """Which usage: [start, end) of these meters, of all customers or one, in windows of a time zone's calendar."""

    tenant_id: str
    tenant_no: int
    meters: Sequence[ExportedMeter]
    customer_no: int | None
    start: datetime
    end: datetime
    window: WindowSize
    timezone: str


def usage_rows(database: Database, client: Client, exported: ExportedUsage) -> Iterator[Values]:
    """A row a meter, window, customer and full group, in that order; what holds nothing has none.

    Raises Reject as `query_usage` and `window_bounds` do, Retry and ClickHouseError.
    """
    bounds = window_bounds(exported.window, ZoneInfo(exported.timezone), exported.start, exported.end)
    ends = dict(pairwise(bounds))
    for meter in exported.meters:
        query = UsageQuery(
            tenant_no=exported.tenant_no,
            meter=meter.entry,
            customer_nos=None if exported.customer_no is None else [exported.customer_no],
            start=exported.start,
            end=exported.end,
            bounds=bounds,
            by_customer=True,
            group_by=meter.entry.group_by,
        )
        after: UsageKey | None = None
        while True:
            page = query_usage(client, query, after=after, limit=ROWS_A_QUERY)
            names = _names(database, exported.tenant_id, page)
            for key, value in page.items():
                group = json.dumps(_group(meter.entry, key), ensure_ascii=False)
                head = (meter.key, meter.entry.aggregation.value, names[key.customer_no], group)
                yield (*head, key.window_start, ends[key.window_start], value, meter.as_of)
            if len(page) < ROWS_A_QUERY:
                break
            after = next(reversed(page))
        check_unchanged(database, meter)


def check_unchanged(database: Database, meter: ExportedMeter) -> None:
    """Raise Retry when readers have left the revision that was read: its last pages may have been swept away."""
    number = meter.entry.meter_no
    with database.transaction() as connection:
        if load_entries(connection, meter_nos=[number])[number].revision != meter.entry.revision:
            raise Retry("export.meter_changed", f"The meter {meter.key} was built anew meanwhile; export it again.")


def _names(database: Database, tenant_id: str, keys: Iterable[UsageKey]) -> dict[int, str]:
    numbers = sorted({key.customer_no for key in keys})
    if not numbers:
        return {}
    with database.transaction() as connection:
        return load_external_ids(connection, tenant_id=tenant_id, numbers=numbers)


def _group(meter: MeterEntry, key: UsageKey) -> dict[str, str | None]:
    texts = [text.decode() for text in key.groups]
    return {name: text[1:] if text else None for name, text in zip(meter.group_by, texts, strict=True)}
