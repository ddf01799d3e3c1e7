"""Meters: what of which events counts. A meter is not edited in this release; make another one beside it."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query
from pydantic import AfterValidator, Field, WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import catalogue, meters, outbox
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Principal, Reader
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, Key, Metadata, Name
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.problems import pointer
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.catalogue import EntryKind, MeterEntry
from schemas.errors import Conflict, NotFound, Reject
from schemas.events import MAX_FIELD_LENGTH
from schemas.ids import Prefix, new_id
from schemas.matching import SUPPORTED_OPERATORS, literal_text
from schemas.meters import ADDITIVE, MAX_FILTER_VALUES, MAX_FILTERS, MAX_GROUPS, Aggregation, Filter, FilterOperator
from schemas.money import parse_decimal
from schemas.paths import MAX_PATH_LENGTH, parse_path
from schemas.topics import SystemEvent

MAX_METERS = 500  # in use, of one tenant: a flow holds them all in memory and tries those of an event's type

router = house_router("meters")

Path = Annotated[str, Field(min_length=1, max_length=MAX_PATH_LENGTH)]
FilterLiteral = str | bool | int | Decimal


def check_filter_value(value: object) -> object:
    """Text, a boolean or a number. Raises ValueError for anything else, and for text that is too long."""
    if not isinstance(value, str | bool | int | Decimal):
        raise ValueError("must be a string, a number or a boolean")
    if isinstance(value, str) and len(value) > MAX_FIELD_LENGTH:
        raise ValueError(f"must have at most {MAX_FIELD_LENGTH} characters")
    return value


FilterValue = Annotated[
    Any, AfterValidator(check_filter_value), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


class FilterBody(Body):
    property: Path
    op: Literal["eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "exists"]
    values: Annotated[list[FilterValue], Field(default_factory=list, max_length=MAX_FILTER_VALUES)]


class MeterBody(Body):
    key: Key
    name: Name | None = None
    event_type: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    aggregation: Literal["count", "sum", "min", "max", "avg", "latest", "unique_count", "weighted_sum"]
    value: Path | None = None
    filters: Annotated[list[FilterBody], Field(default_factory=list, max_length=MAX_FILTERS)]
    group_by: Annotated[list[Path], Field(default_factory=list, max_length=MAX_GROUPS)]
    metadata: Metadata


class FilterView(TypedDict):
    """A condition on a property; `values` are strings, numbers or booleans."""

    property: str
    op: str
    values: list[Any]


class MeterView(ObjectView):
    """A meter. `revision` rises when what it counts changes."""

    object: Literal["meter"]
    key: str
    name: str
    event_type: str
    aggregation: str
    value: str | None
    filters: list[FilterView]
    group_by: list[str]
    revision: int
    archived_at: datetime | None


_literal = msgspec.json.Decoder(float_hook=Decimal)


def to_view(row: Row) -> MeterView:
    return {
        "object": "meter",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "event_type": row["event_type"],
        "aggregation": row["aggregation"],
        "value": row["value"],
        "filters": [
            {"property": each["property"], "op": each["op"], "values": [_literal.decode(v) for v in each["values"]]}
            for each in row["filters"]
        ],
        "group_by": row["group_by"],
        "revision": row["revision"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def to_entry(row: Row) -> MeterEntry:
    """What flows must know of a stored meter."""
    return MeterEntry(
        meter_no=row["no"],
        revision=row["revision"],
        event_type=row["event_type"],
        aggregation=Aggregation(row["aggregation"]),
        value=row["value"],
        filters=msgspec.convert(row["filters"], tuple[Filter, ...]),
        group_by=tuple(row["group_by"]),
    )


def find(connection: PgConnection, tenant_id: str, reference: str, *, lock: bool = False) -> Row:
    """The tenant's meter by id or key, archived or not. Raises NotFound."""
    row = meters.load_meter(connection, tenant_id=tenant_id, reference=reference, lock=lock)
    if row is None:
        raise NotFound("meter.not_found", f"There is no meter {reference!r}.")
    return row


@router.post("/v1/meters", status_code=201, response_model=MeterView, operation_id="create_meter")
def create_meter(body: MeterBody, call: AdminCall) -> Response:
    """Make a meter. Events that are acknowledged from now on are counted by it."""
    value = read_value(body)
    filters = [read_filter(item, index) for index, item in enumerate(body.filters)]
    group_by = read_group_by(body.group_by)

    def effect(connection: PgConnection) -> MeterView:
        if meters.count_meters(connection, tenant_id=call.tenant_id) >= MAX_METERS:
            raise Conflict("meter.too_many", f"A tenant has at most {MAX_METERS} meters in use; archive one.")
        row = meters.insert_meter(
            connection,
            meter_id=new_id(Prefix.METER),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            event_type=body.event_type,
            aggregation=body.aggregation,
            value=value,
            filters=filters,
            group_by=group_by,
            metadata=body.metadata,
            now=call.now,
        )
        if row is None:
            raise Conflict("meter.already_exists", f"There is a meter {body.key!r} already.")
        view = to_view(row)
        _tell(connection, call.principal, SystemEvent.METER_CREATED, view, call.now)
        _append(connection, call.principal, row, to_entry(row))
        return view

    return call.perform(effect)


def read_value(body: MeterBody) -> str | None:
    """The path of the value. Raises Reject."""
    if Aggregation(body.aggregation) not in ADDITIVE:
        raise Reject.at(
            "/aggregation",
            "meter.unsupported_aggregation",
            f"This release counts and sums; {body.aggregation} is not supported yet.",
        )
    if body.aggregation == Aggregation.COUNT:
        if body.value is not None:
            raise Reject.at("/value", "meter.invalid_value", "A count takes no value: it counts events.")
        return None
    if body.value is None:
        raise Reject.at("/value", "meter.invalid_value", "A sum needs the path of its value, such as $.tokens.")
    _check_path(body.value, "/value", "meter.invalid_value")
    return body.value


def read_filter(body: FilterBody, index: int) -> Filter:
    """A filter as it is stored. Raises Reject."""
    where = pointer("filters", index)
    if body.op not in SUPPORTED_OPERATORS:
        raise Reject.at(
            f"{where}/op", "meter.unsupported_filter", f"This release knows eq and in; {body.op} is not supported yet."
        )
    _check_path(body.property, f"{where}/property", "meter.invalid_filter")
    if not body.values or (body.op == FilterOperator.EQ and len(body.values) != 1):
        how_many = "exactly one value" if body.op == FilterOperator.EQ else "at least one value"
        raise Reject.at(f"{where}/values", "meter.invalid_filter", f"{body.op} takes {how_many}.")
    return Filter(
        property=body.property,
        op=FilterOperator(body.op),
        values=tuple(_read_literal(value, f"{where}/values/{position}") for position, value in enumerate(body.values)),
    )


def _read_literal(value: FilterLiteral, where: str) -> str:
    if not isinstance(value, str | bool):
        try:
            parse_decimal(str(value))
        except ValueError as error:
            raise Reject.at(where, "meter.invalid_filter", str(error)) from None
    return literal_text(value)


def read_group_by(names: list[str]) -> list[str]:
    """Property names without `$.`. A group is a property of `data` itself. Raises Reject."""
    groups: list[str] = []
    for index, name in enumerate(names):
        group = name
        if name.startswith("$"):
            path = _check_path(name, pointer("group_by", index), "meter.invalid_group_by")
            if len(path) != 1:
                raise Reject.at(
                    pointer("group_by", index), "meter.invalid_group_by", "A group is a property of data itself."
                )
            group = path[0]
        if group in groups or group == "customer":
            raise Reject.at(pointer("group_by", index), "meter.invalid_group_by", f"{group!r} is a group already.")
        groups.append(group)
    return groups


def _check_path(text: str, where: str, code: str) -> tuple[str, ...]:
    try:
        return parse_path(text)
    except ValueError as error:
        raise Reject.at(where, code, f"{error}") from None


@router.get("/v1/meters", response_model=ListView[MeterView], operation_id="list_meters")
def list_meters(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
) -> Response:
    """The tenant's meters, newest first."""
    before_id = check_cursor(starting_after, Prefix.METER)
    with context.database.transaction() as connection:
        rows = meters.list_meters(
            connection, tenant_id=principal.tenant_id, archived=archived, before_id=before_id, limit=limit + 1
        )
    return answer(page(rows, limit, to_view))


@router.get("/v1/meters/{meter}", response_model=MeterView, operation_id="get_meter")
def get_meter(meter: str, principal: Reader, context: FromContext) -> Response:
    """One meter, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, meter)))


@router.post("/v1/meters/{meter}/archive", response_model=MeterView, operation_id="archive_meter")
def archive_meter(meter: str, call: AdminCall) -> Response:
    """Stop counting. What was counted stays readable. A meter that a feature or a price names can't be archived."""

    def effect(connection: PgConnection) -> MeterView:
        row = find(connection, call.tenant_id, meter, lock=True)
        if row["archived_at"] is not None:
            return to_view(row)
        if meters.is_meter_used(connection, tenant_id=call.tenant_id, meter_id=row["id"], key=row["key"]):
            raise Conflict("meter.in_use", f"A feature or a price of a plan names the meter {row['key']!r}.")
        archived = meters.archive_meter(connection, meter_id=row["id"], now=call.now)
        view = to_view(archived)
        _tell(connection, call.principal, SystemEvent.METER_ARCHIVED, view, call.now)
        _append(connection, call.principal, row, None)
        return view

    return call.perform(effect, status=200)


def _append(connection: PgConnection, principal: Principal, row: Row, entry: MeterEntry | None) -> None:
    change = catalogue.Change(
        kind=EntryKind.METER, tenant_no=principal.tenant_no, key=f"{row['no']}:{row['revision']}", entry=entry
    )
    catalogue.append_changes(connection, [change])


def _tell(connection: PgConnection, principal: Principal, event: SystemEvent, view: MeterView, now: datetime) -> None:
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
