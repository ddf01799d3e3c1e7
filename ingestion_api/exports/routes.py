"""`GET /v1/exports/…`: what a tenant was invoiced and what was counted, as CSV or Parquet."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema
from starlette.responses import Response, StreamingResponse

from infra.postgres.exports import Exported
from infra.postgres.meters import complete_until, list_meters
from infra.postgres.pool import PgConnection
from infra.postgres.shards import usage_as_of
from ingestion_api.auth import Principal, Reader
from ingestion_api.context import Context, FromContext
from ingestion_api.control import customers, meters
from ingestion_api.exports.focus import focus_rows
from ingestion_api.exports.focus_columns import FOCUS_COLUMNS
from ingestion_api.exports.invoices import INVOICE_COLUMNS, LINE_COLUMNS, invoice_rows, line_rows
from ingestion_api.exports.stream import MEDIA_TYPES, Format, export
from ingestion_api.exports.usage import USAGE_COLUMNS, ExportedMeter, ExportedUsage, usage_rows
from ingestion_api.fields import Timezone
from ingestion_api.queries.parameters import CustomerReference, check_range, read_instant
from ingestion_api.routing import house_router
from schemas.windows import WindowSize

router = house_router("exports")

From = Annotated[
    datetime,
    BeforeValidator(read_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(alias="from", description="The first instant that is asked for."),
]
To = Annotated[
    datetime,
    BeforeValidator(read_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
    Query(description="The first instant that is no more."),
]
FileFormat = Annotated[Format, Query(alias="format")]
MeterReference = Annotated[
    str | None, Query(min_length=1, max_length=255, description="A meter's id or key. Default: all in use.")
]

_ROUTE: dict[str, Any] = {
    "response_class": StreamingResponse,
    "responses": {
        200: {
            "description": "The file, as it is made.",
            "content": {
                media_type.partition(";")[0]: {"schema": {"type": "string", "format": "binary"}}
                for media_type in MEDIA_TYPES.values()
            },
        }
    },
}


@router.get("/v1/exports/invoices", operation_id="export_invoices", **_ROUTE)
def export_invoices(
    principal: Reader,
    context: FromContext,
    start: From,
    to: To,
    file_format: FileFormat = "csv",
    customer: CustomerReference = None,
) -> Response:
    """Invoices that became final in the range, a row each. With `customer` those that are addressed to it."""
    exported = _documents(context, principal, start, to, customer)
    return export("invoices", INVOICE_COLUMNS, invoice_rows(context.database, exported), file_format)


@router.get("/v1/exports/invoice_lines", operation_id="export_invoice_lines", **_ROUTE)
def export_invoice_lines(
    principal: Reader,
    context: FromContext,
    start: From,
    to: To,
    file_format: FileFormat = "csv",
    customer: CustomerReference = None,
) -> Response:
    """The lines of the same invoices, a row each, with their shares of the invoice's discounts and taxes."""
    exported = _documents(context, principal, start, to, customer)
    return export("invoice_lines", LINE_COLUMNS, line_rows(context.database, exported), file_format)


@router.get("/v1/exports/focus", operation_id="export_focus", **_ROUTE)
def export_focus(
    principal: Reader,
    context: FromContext,
    start: From,
    to: To,
    file_format: FileFormat = "csv",
    customer: CustomerReference = None,
) -> Response:
    """The same invoices, but for void ones, and the credit notes of the range, in the columns of FOCUS 1.2."""
    exported = _documents(context, principal, start, to, customer)
    return export("focus", FOCUS_COLUMNS, focus_rows(context.database, exported), file_format)


@router.get("/v1/exports/usage", operation_id="export_usage", **_ROUTE)
def export_usage(
    principal: Reader,
    context: FromContext,
    start: From,
    to: To,
    file_format: FileFormat = "csv",
    customer: CustomerReference = None,
    meter: MeterReference = None,
    window: Annotated[Literal["hour", "day"], Query()] = "day",
    timezone: Annotated[Timezone, Query(description="An IANA name; windows are of its calendar.")] = "UTC",
) -> Response:
    """Usage by meter, window, customer and group, a row each. A window is the calendar's; only what lies in the range
    counts in it."""
    check_range(start, to)
    with context.database.transaction() as connection:
        exported = ExportedUsage(
            tenant_id=principal.tenant_id,
            tenant_no=principal.tenant_no,
            meters=_meters(connection, context, principal.tenant_id, meter),
            customer_no=(None if customer is None else customers.find(connection, principal.tenant_id, customer)["no"]),
            start=start,
            end=to,
            window=WindowSize(window),
            timezone=timezone,
        )
    rows = usage_rows(context.database, context.clickhouse, exported)
    return export("usage", USAGE_COLUMNS, rows, file_format)


def _documents(
    context: Context, principal: Principal, start: datetime, end: datetime, customer: str | None
) -> Exported:
    """Raises Reject and NotFound."""
    check_range(start, end)
    customer_id: str | None = None
    if customer is not None:
        with context.database.transaction() as connection:
            customer_id = customers.find(connection, principal.tenant_id, customer)["id"]
    return Exported(tenant_id=principal.tenant_id, start=start, end=end, customer_id=customer_id)


def _meters(connection: PgConnection, context: Context, tenant_id: str, reference: str | None) -> list[ExportedMeter]:
    """The meter that is named, or all in use. What is complete is asked first: the revision and the windows that are
    read after it have all that is before it."""
    settings = context.settings
    stored_until = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    rows = (
        list_meters(connection, tenant_id=tenant_id, archived=False, before_id=None, limit=meters.MAX_METERS)
        if reference is None
        else [meters.find(connection, tenant_id, reference)]
    )
    return [
        ExportedMeter(
            key=row["key"],
            entry=meters.to_entry(row),
            as_of=complete_until(connection, meter_nos=[row["no"]], as_of=stored_until),
        )
        for row in sorted(rows, key=lambda row: row["key"])
    ]
