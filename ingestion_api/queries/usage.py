"""`GET /v1/usage`: what a meter counted, by window, customer and group."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from fastapi import Query, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.usage import stored_range
from infra.clickhouse.usage_query import UsageKey, UsageQuery
from infra.postgres.customers import load_external_ids
from infra.postgres.meters import complete_until
from infra.postgres.pool import PgConnection
from infra.postgres.shards import usage_as_of
from infra.settings import Settings
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control import customers, meters
from ingestion_api.fields import Timezone
from ingestion_api.paging import MAX_LONG_LIMIT, LongLimit
from ingestion_api.queries.parameters import (
    MAX_INSTANT,
    MIN_INSTANT,
    Cursor,
    CustomerReference,
    From,
    To,
    check_range,
    decode_cursor,
    encode_cursor,
    query_mark,
)
from ingestion_api.queries.usage_page import UsageRow, usage_page
from ingestion_api.routing import house_router
from ingestion_api.views import JsonNumber
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import from_micros, to_micros
from schemas.meters import MAX_GROUPS
from schemas.money import format_decimal
from schemas.windows import WindowSize, window_bounds

CUSTOMER_GROUP = "customer"
MAX_FILTER_TEXTS = 100
MINUTE = timedelta(minutes=1)
MILLISECOND = Decimal("0.001")

router = house_router("usage")


class UsageWindow(TypedDict):
    """What was counted in one window. `customer` is the external_id, null where customers are not told apart.

    A window is the calendar's; only what lies in [from, to) counts in it. `value` is exact, but for averages (avg,
    weighted_sum), which are rounded to 12 digits after the point, half away from zero.
    """

    window_start: datetime
    window_end: datetime
    customer: str | None
    group: dict[str, str | None]
    value: str


class UsageView(TypedDict):
    """`as_of`: every event acknowledged before it is in the answer; null while nothing can be said of that: before the
    first event was stored, or while a new meter still counts the past and nothing is known of it."""

    object: Literal["list"]
    data: list[UsageWindow]
    has_more: bool
    next_cursor: str | None
    as_of: datetime | None
    lag_seconds: JsonNumber | None


class Position(NamedTuple):
    """The cursor: the last row of a page."""

    window_start: Annotated[int, msgspec.Meta(ge=to_micros(MIN_INSTANT), le=to_micros(MAX_INSTANT))]
    customer_no: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    groups: Annotated[list[str], msgspec.Meta(max_length=MAX_GROUPS)]


@router.get("/v1/usage", response_model=UsageView, operation_id="get_usage")
def get_usage(
    request: Request,
    principal: Reader,
    context: FromContext,
    now: Now,
    meter: Annotated[str, Query(min_length=1, max_length=255, description="A meter's id or key.")],
    customer: CustomerReference = None,
    start: From = None,
    to: To = None,
    window: WindowSize = WindowSize.NONE,
    timezone: Annotated[Timezone, Query(description="An IANA name; windows are of its calendar.")] = "UTC",
    group_by: Annotated[
        list[str],
        Query(description="Properties of the meter, or `customer`; repeats or takes commas."),
    ] = [],  # noqa: B006 - pydantic copies it
    fill: Annotated[Literal["zero"] | None, Query(description="`zero`: windows without events too.")] = None,
    limit: LongLimit = MAX_LONG_LIMIT,
    starting_after: Cursor = None,
) -> Response:
    """The usage of one meter. `filter[model]=m1` takes only events of that group; repeat it for several.

    Without `customer` all customers together, or each with `group_by=customer`. What does not add up (minimum, maximum,
    latest, unique values, averages) is taken over exactly the events that are asked for, never from parts. A level
    (weighted_sum) is carried over from before `from`; without `to` its average ends after the last event.
    """
    check_range(start, to)
    with context.database.transaction() as connection:
        # First: the revision that readers use after it, and the windows that are read last, have all that is before it.
        stored_until = _stored_until(connection, context.settings)
        entry = meters.to_entry(meters.find(connection, principal.tenant_id, meter))
        customer_row = None if customer is None else customers.find(connection, principal.tenant_id, customer)
        as_of = complete_until(connection, meter_nos=[entry.meter_no], as_of=stored_until)
    groups = read_groups(entry, group_by)
    filters = read_filters(entry, request.query_params.multi_items())
    customer_nos = None if customer_row is None else [int(customer_row["no"])]
    mark = query_mark(request)
    after = None if starting_after is None else _read_position(starting_after, mark)
    rows: list[UsageRow] = []
    found = _range(context.clickhouse, entry, customer_nos, start, to)
    names = [name for name in groups if name != CUSTOMER_GROUP]
    if found is not None:
        query = UsageQuery(
            tenant_no=principal.tenant_no,
            meter=entry,
            customer_nos=customer_nos,
            start=found[0],
            end=found[1],
            bounds=window_bounds(window, ZoneInfo(timezone), *found),
            by_customer=customer_row is not None or CUSTOMER_GROUP in groups,
            group_by=names,
            filters=filters,
        )
        rows = usage_page(context.clickhouse, query, after=after, limit=limit + 1, fill=fill == "zero")
    shown = rows[:limit]
    externals = _externals(context, principal, shown)
    has_more = len(rows) > limit
    return answer(
        {
            "object": "list",
            "data": [_view(row, names, externals) for row in shown],
            "has_more": has_more,
            "next_cursor": _write_position(shown[-1].key, mark) if has_more else None,
            "as_of": as_of,
            "lag_seconds": _lag(as_of, now),
        }
    )


def read_groups(meter: MeterEntry, parameters: list[str]) -> list[str]:
    """The names of `group_by`, each once. Raises Reject for one that the meter does not keep."""
    names = [name.strip() for parameter in parameters for name in parameter.split(",")]
    names = list(dict.fromkeys(name.removeprefix("$.") for name in names if name))
    for name in names:
        if name != CUSTOMER_GROUP and name not in meter.group_by:
            raise _unknown_property(meter, "/group_by", name)
    return names


def read_filters(meter: MeterEntry, parameters: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The group texts that `filter[name]=value` lets through. Raises Reject."""
    filters: dict[str, list[str]] = {}
    for parameter, value in parameters:
        if not parameter.startswith("filter"):
            continue
        name = parameter.removeprefix("filter[").removesuffix("]")
        if parameter == f"filter[{CUSTOMER_GROUP}]":
            detail = "To take only one customer's usage, use `customer=`."
            raise Reject.at(f"/{parameter}", "usage.unknown_property", detail)
        if parameter != f"filter[{name}]" or name not in meter.group_by:
            raise _unknown_property(meter, f"/{parameter}", name)
        texts = filters.setdefault(name, [])
        texts.append("=" + value)
        if len(texts) > MAX_FILTER_TEXTS:
            raise Reject.at(f"/{parameter}", "request.invalid_field", f"At most {MAX_FILTER_TEXTS} values.")
    return filters


def _unknown_property(meter: MeterEntry, pointer: str, name: str) -> Reject:
    known = ", ".join((CUSTOMER_GROUP, *meter.group_by))
    return Reject.at(pointer, "usage.unknown_property", f"The meter keeps no group {name!r}; it has {known}.")


def _range(
    client: Any, meter: MeterEntry, customer_nos: list[int] | None, start: datetime | None, end: datetime | None
) -> tuple[datetime, datetime] | None:
    """[from, to), each end as given or else where the stored usage ends. None when nothing lies in it."""
    if start is not None and end is not None:
        return start, end
    stored = stored_range(client, meter=meter, customer_nos=customer_nos)
    if stored is None:
        return None
    first, last = start or stored[0], end or stored[1] + MINUTE
    return (first, last) if first < last else None


def _stored_until(connection: PgConnection, settings: Settings) -> datetime | None:
    return usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)


def _lag(as_of: datetime | None, now: datetime) -> Decimal | None:
    if as_of is None:
        return None
    return (Decimal(max(0, to_micros(now) - to_micros(as_of))) / 1_000_000).quantize(MILLISECOND)


def _externals(context: FromContext, principal: Principal, rows: list[UsageRow]) -> dict[int, str]:
    numbers = sorted({row.key.customer_no for row in rows} - {0})
    if not numbers:
        return {}
    with context.database.transaction() as connection:
        return load_external_ids(connection, tenant_id=principal.tenant_id, numbers=numbers)


def _view(row: UsageRow, names: list[str], externals: dict[int, str]) -> UsageWindow:
    texts = [text.decode() for text in row.key.groups]
    return {
        "window_start": row.key.window_start,
        "window_end": row.window_end,
        "customer": externals[row.key.customer_no] if row.key.customer_no else None,
        "group": {name: text[1:] if text else None for name, text in zip(names, texts, strict=True)},
        "value": format_decimal(row.value),
    }


def _write_position(key: UsageKey, mark: bytes) -> str:
    texts = [text.decode() for text in key.groups]
    return encode_cursor(Position(to_micros(key.window_start), key.customer_no, texts), mark)


def _read_position(cursor: str, mark: bytes) -> UsageKey:
    position = decode_cursor(cursor, Position, mark)
    return UsageKey(
        from_micros(position.window_start), position.customer_no, tuple(text.encode() for text in position.groups)
    )
