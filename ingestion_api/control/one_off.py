"""One-off invoices: made from lines, changed and deleted while they are drafts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import customers, tax_rates
from infra.postgres.invoice_drafts import delete_draft, replace_draft, set_metadata
from infra.postgres.invoice_issue import NewInvoice, issue_invoices
from infra.postgres.invoice_lifecycle import check_draft, lock_invoice
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin
from ingestion_api.clock import Now, clock_now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.invoice_views import InvoiceView
from ingestion_api.control.invoices import load_view
from ingestion_api.control.one_off_discounts import read_discounts, redeem
from ingestion_api.control.tax_rates import MAX_RATES_OF_A_CUSTOMER, Percent, find_all
from ingestion_api.fields import (
    Body,
    Currency,
    DecimalText,
    Key,
    Metadata,
    MetadataChange,
    Name,
    Reference,
    merge_metadata,
)
from ingestion_api.idempotency import AdminCall
from ingestion_api.problems import VARIANT, pointer
from ingestion_api.routing import house_router
from pricing.discounts import MAX_DISCOUNTS
from pricing.one_off import MAX_DESCRIPTION, MAX_LINES, price_one_off
from schemas.billing import InvoiceKind
from schemas.errors import Conflict, Reject
from schemas.money import format_decimal

KEY = f"{VARIANT}key"
RATE = f"{VARIANT}rate"

router = house_router("invoices")


def read_price(value: object) -> object:
    """A decimal is the price of one."""
    return {"model": "per_unit", "unit_amount": value} if isinstance(value, str) else value


class LineBody(Body):
    """Either `amount`, or `price` (as in a plan, without key and meter; a decimal is that of one) and `quantity`
    (default 1)."""

    key: Key | None = None
    description: Annotated[str, Field(min_length=1, max_length=MAX_DESCRIPTION)]
    amount: DecimalText | None = None
    price: Annotated[dict[str, Any] | None, BeforeValidator(read_price)] = None
    quantity: DecimalText | None = None


class DiscountBody(Body):
    """Either a `coupon` by its key, id or code, or `percent`, or `amount`: off the sum of the lines."""

    coupon: Reference | None = None
    percent: DecimalText | None = None
    amount: DecimalText | None = None


class TaxBody(Body):
    """A rate of this invoice alone."""

    key: Key | None = None
    name: Name
    percent: Percent
    inclusive: bool = False


def _kind_of_tax(tax: object) -> str:
    """A key is text; an object is a rate."""
    return KEY if isinstance(tax, str) else RATE


Lines = Annotated[list[LineBody], Field(min_length=1, max_length=MAX_LINES)]
Discounts = Annotated[list[DiscountBody], Field(max_length=MAX_DISCOUNTS)]
Taxes = Annotated[
    list[Annotated[Annotated[Reference, Tag(KEY)] | Annotated[TaxBody, Tag(RATE)], Discriminator(_kind_of_tax)]],
    Field(max_length=MAX_RATES_OF_A_CUSTOMER, description="Keys of tax rates, or rates; absent: the customer's."),
]


class InvoiceBody(Body):
    """`draft`: true leaves it a draft until somebody finalizes it, false finalizes it at once; absent: as the settings'
    `draft_hours` say. `currency`: absent, the customer's."""

    customer: Reference
    currency: Currency | None = None
    lines: Lines
    discounts: Discounts | None = None
    taxes: Taxes | None = None
    draft: bool | None = None
    metadata: Metadata


class InvoiceChange(Body):
    """What is absent stays as it is. Of a subscription's draft only `metadata` may change."""

    lines: Lines | None = None
    discounts: Discounts | None = None
    taxes: Taxes | None = None
    metadata: MetadataChange


class DeletedView(TypedDict):
    object: Literal["invoice"]
    id: str
    deleted: Literal[True]


@router.post("/v1/invoices", status_code=201, response_model=InvoiceView, operation_id="create_invoice")
def create_invoice(body: InvoiceBody, call: AdminCall) -> Response:
    """Invoice a customer for something that no subscription bills."""
    return call.perform(lambda connection: _create(connection, body, call.tenant_id, call.now))


def _create(connection: PgConnection, body: InvoiceBody, tenant_id: str, now: datetime) -> InvoiceView:
    customer = find_customer(connection, tenant_id, body.customer, lock=True)  # before coupons, as everywhere
    check_not_archived(customer)
    now = clock_now(connection, customer["test_clock_id"], now, hold=True)
    currency = _currency_of(customer, body.currency)
    taxes = _own_taxes(connection, customer) if body.taxes is None else _read_taxes(connection, tenant_id, body.taxes)
    own = _dump(body.discounts or ())
    discounts = read_discounts(connection, own, tenant_id=tenant_id, currency=currency, now=now)
    terms = {
        "currency": currency,
        "lines": _dump(body.lines),
        "discounts": discounts,
        "taxes": taxes,
    }
    customers.fix_currency(connection, customer_id=customer["id"], currency=currency)
    new = NewInvoice(
        tenant_id=tenant_id,
        customer_id=customer["id"],
        external_id=customer["external_id"],
        subscription_id=None,
        invoice=price_one_off(terms, now=now),
        as_of=None,
        is_draft=body.draft,
        terms=terms,
        metadata=body.metadata,
    )
    [issued] = issue_invoices(connection, [new], now=now)
    redeem(connection, issued.id, discounts, now=now)
    return load_view(connection, tenant_id, issued.id)


def _currency_of(customer: Row, given: str | None) -> str:
    """Raises Reject when neither says one, Conflict when both do and differ."""
    currency = given or customer["currency"]
    if currency is None:
        raise Reject.at("/currency", "invoice.missing_currency", "The customer has no currency; name one.")
    if customer["currency"] not in (None, currency):
        raise Conflict(
            "invoice.currency_mismatch", f"The customer pays in {customer['currency']}, the invoice is in {currency}."
        )
    return currency


def _dump(bodies: Sequence[Body]) -> list[dict[str, Any]]:
    return [body.model_dump(exclude_none=True) for body in bodies]


def _own_taxes(connection: PgConnection, customer: Row) -> list[dict[str, Any]]:
    rates = tax_rates.load_by_ids(connection, customer["tax_rate_ids"])
    return [_copy_rate(rates[tax_rate_id]) for tax_rate_id in customer["tax_rate_ids"]]


def _read_taxes(connection: PgConnection, tenant_id: str, taxes: Sequence[str | TaxBody]) -> list[dict[str, Any]]:
    """Copies of the rates, in their order. Raises Reject for a key that names none, or the same one twice."""
    found = find_all(connection, tenant_id, [tax for tax in taxes if isinstance(tax, str)], "taxes")
    by_reference = {row["key"]: row for row in found} | {row["id"]: row for row in found}
    copies: list[dict[str, Any]] = []
    for index, tax in enumerate(taxes):
        if isinstance(tax, str):
            copies.append(_copy_rate(by_reference[tax]))
        else:
            key = tax.key or f"tax-{index + 1}"
            copies.append({"key": key, "name": tax.name, "percent": tax.percent, "inclusive": tax.inclusive})
        if copies[-1]["key"] in {copy["key"] for copy in copies[:-1]}:
            raise Reject.at(pointer("taxes", index), "invoice.duplicate_tax", "This tax is named twice.")
    return copies


def _copy_rate(row: Row) -> dict[str, Any]:
    return {
        "key": row["key"],
        "name": row["name"],
        "percent": format_decimal(row["percent"]),
        "inclusive": row["inclusive"],
    }


@router.patch("/v1/invoices/{invoice}", response_model=InvoiceView, operation_id="update_invoice")
def update_invoice(invoice: str, body: InvoiceChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change a draft. A final invoice never changes: 409 `invoice.finalized`."""
    with context.database.transaction() as connection:
        row = lock_invoice(connection, tenant_id=principal.tenant_id, id_or_number=invoice)
        check_draft(row)
        _change(connection, body, row, clock_now(connection, row["test_clock_id"], now, hold=True))
        return answer(load_view(connection, principal.tenant_id, row["id"]))


def _change(connection: PgConnection, body: InvoiceChange, row: Row, now: datetime) -> None:
    set_metadata(connection, row, merge_metadata(row["metadata"], body.metadata))
    given = body.model_fields_set - {"metadata"}
    if not given:
        return
    _check_one_off(row)
    terms = dict(row["terms"])
    if body.lines is not None:
        terms["lines"] = _dump(body.lines)
    if "discounts" in given:
        discounts = read_discounts(
            connection,
            _dump(body.discounts or ()),
            terms["discounts"],
            tenant_id=row["tenant_id"],
            currency=row["currency"],
            now=now,
        )
        redeem(connection, row["id"], discounts, terms["discounts"], now=now)
        terms["discounts"] = discounts
    if "taxes" in given:
        terms["taxes"] = _read_taxes(connection, row["tenant_id"], body.taxes or ())
    replace_draft(connection, row, price_one_off(terms, now=row["period_end"]), terms=terms, now=now)


def _check_one_off(row: Row) -> None:
    if row["kind"] != InvoiceKind.ONE_OFF:  # a consolidated one has no `subscription_id` either
        raise Conflict(
            "invoice.not_one_off",
            "What stands on this draft follows from its subscriptions: only its metadata can change, and it is not"
            " deleted. Finalize it, then void it or write a credit note.",
        )


@router.delete("/v1/invoices/{invoice}", response_model=DeletedView, operation_id="delete_invoice")
def delete_invoice(invoice: str, principal: Admin, context: FromContext, now: Now) -> Response:
    """Take a one-off draft away. That of a subscription says what has been billed: finalize it and void it instead."""
    with context.database.transaction() as connection:
        row = lock_invoice(connection, tenant_id=principal.tenant_id, id_or_number=invoice)
        check_draft(row)
        _check_one_off(row)
        at = clock_now(connection, row["test_clock_id"], now, hold=True)
        redeem(connection, row["id"], (), row["terms"]["discounts"], now=at)
        delete_draft(connection, row, now=at)
    view: DeletedView = {"object": "invoice", "id": row["id"], "deleted": True}
    return answer(view)
