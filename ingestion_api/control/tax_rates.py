"""Tax rates: percentages that customers' invoices carry. Which of them a customer owes is for its seller to know."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from starlette.responses import Response

from infra.postgres import outbox, tax_rates
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, DecimalText, Key, Metadata, MetadataChange, Name, Reference, merge_metadata
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.problems import pointer
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import format_decimal
from schemas.topics import SystemEvent

MAX_RATES_OF_A_CUSTOMER = 10
MAX_PERCENT = Decimal(100)

router = house_router("tax_rates")


def check_percent(text: str) -> str:
    if not 0 <= Decimal(text) <= MAX_PERCENT:
        raise ValueError("must be from 0 to 100")
    return text


Percent = Annotated[
    DecimalText, AfterValidator(check_percent), WithJsonSchema({"type": "string", "examples": ["19", "8.875"]})
]
TaxRates = Annotated[
    list[Reference],
    Field(
        max_length=MAX_RATES_OF_A_CUSTOMER, description="Keys of tax rates, in the order in which invoices show them."
    ),
]


class TaxRateBody(Body):
    """`inclusive`: prices contain the tax; else it is added to them."""

    key: Key
    name: Name | None = None
    percent: Percent
    inclusive: bool = False
    metadata: Metadata


class TaxRateChange(Body):
    """What is absent stays as it is. Invoices that were issued keep the rate that they were issued by."""

    name: Name | None = None
    percent: Percent | None = None
    inclusive: bool | None = None
    archived: bool | None = None
    metadata: MetadataChange


class TaxRateView(ObjectView):
    object: Literal["tax_rate"]
    key: str
    name: str
    percent: str
    inclusive: bool
    archived_at: datetime | None


def to_view(row: Row) -> TaxRateView:
    return {
        "object": "tax_rate",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "percent": format_decimal(row["percent"]),
        "inclusive": row["inclusive"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, reference: str, *, lock: bool = False) -> Row:
    """The tenant's rate by id or key. Raises NotFound."""
    row = tax_rates.load_tax_rate(connection, tenant_id=tenant_id, reference=reference, lock=lock)
    if row is None:
        raise NotFound("tax_rate.not_found", f"There is no tax rate {reference!r}.")
    return row


def find_all(connection: PgConnection, tenant_id: str, references: Sequence[str], name: str) -> list[Row]:
    """The rates in use of these references, each once, in their order; `name` is the field they stand in.

    Raises Reject `tax_rate.not_found`.
    """
    found = tax_rates.load_tax_rates(connection, tenant_id=tenant_id, references=references) if references else {}
    rows: dict[str, Row] = {}
    for index, reference in enumerate(references):
        if reference not in found:
            detail = f"There is no tax rate {reference!r} in use."
            raise Reject.at(pointer(name, index), "tax_rate.not_found", detail)
        rows[found[reference]["id"]] = found[reference]
    return list(rows.values())


@router.post("/v1/tax_rates", status_code=201, response_model=TaxRateView, operation_id="create_tax_rate")
def create_tax_rate(body: TaxRateBody, call: AdminCall) -> Response:
    """Make a tax rate. Customers name it in their `tax_rates`."""

    def effect(connection: PgConnection) -> TaxRateView:
        row = tax_rates.insert_tax_rate(
            connection,
            tax_rate_id=new_id(Prefix.TAX_RATE),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            percent=Decimal(body.percent),
            inclusive=body.inclusive,
            metadata=body.metadata,
            now=call.now,
        )
        if row is None:
            raise Conflict("tax_rate.already_exists", f"There is a tax rate {body.key!r} already.")
        view = to_view(row)
        _tell(connection, call.tenant_id, SystemEvent.TAX_RATE_CREATED, view, call.now)
        return view

    return call.perform(effect)


@router.get("/v1/tax_rates", response_model=ListView[TaxRateView], operation_id="list_tax_rates")
def list_tax_rates(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's tax rates, newest first, archived ones too."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.TAX_RATE, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = tax_rates.list_tax_rates(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/tax_rates/{tax_rate}", response_model=TaxRateView, operation_id="get_tax_rate")
def get_tax_rate(tax_rate: str, principal: Reader, context: FromContext) -> Response:
    """One tax rate, by id or key."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, tax_rate)))


@router.patch("/v1/tax_rates/{tax_rate}", response_model=TaxRateView, operation_id="update_tax_rate")
def update_tax_rate(tax_rate: str, body: TaxRateChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change a rate for invoices to come. An archived one can't be given to customers any more; those that have it
    keep it."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, tax_rate, lock=True)
        metadata = merge_metadata(row["metadata"], body.metadata)
        archived_at = row["archived_at"]
        if body.archived is not None:
            archived_at = (archived_at or now) if body.archived else None
        changed = tax_rates.update_tax_rate(
            connection,
            tax_rate_id=row["id"],
            name=body.name or row["name"],
            percent=row["percent"] if body.percent is None else Decimal(body.percent),
            inclusive=row["inclusive"] if body.inclusive is None else body.inclusive,
            metadata=metadata,
            archived_at=archived_at,
        )
        view = to_view(changed)
        _tell(connection, principal.tenant_id, SystemEvent.TAX_RATE_UPDATED, view, now)
    return answer(view)


def _tell(connection: PgConnection, tenant_id: str, event: SystemEvent, view: TaxRateView, now: datetime) -> None:
    outbox.append(connection, tenant_id=tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
