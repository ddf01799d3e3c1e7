"""Credit notes: what is taken back of a final invoice, off what is due, as credit, or as money to be paid back."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import credit_notes, invoices, outbox
from infra.postgres.collection import check_not_pending
from infra.postgres.credit_notes import Effect
from infra.postgres.invoice_lifecycle import check_final, lock_invoice
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import clock_now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.invoice_views import line_id_of
from ingestion_api.control.payments import read_amount
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, Metadata, Reference
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.problems import pointer
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from pricing.credit_notes import credit_amount, credit_lines
from schemas.credit_notes import Credited, CreditedInvoice
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.invoice_lines import line_id
from schemas.money import format_amount, from_minor, to_minor
from schemas.topics import SystemEvent

MAX_LINES = 500
MAX_REASON_LENGTH = 500

router = house_router("credit_notes")


class NoteLineBody(Body):
    """`line` is the id of a line, `amount` of it as the invoice shows the line."""

    line: Reference
    amount: DecimalText


class CreditNoteBody(Body):
    """Either `amount`, with tax, or `lines`. An `adjustment` is taken off what remains to be paid, and what is left of
    it then becomes the customer's credit; a `refund` pays money back, at most what was paid: by the provider that took
    it, the newest payment first, and what was paid by hand by hand."""

    invoice: Reference
    kind: Literal["adjustment", "refund"]
    amount: DecimalText | None = None
    lines: Annotated[list[NoteLineBody], Field(min_length=1, max_length=MAX_LINES)] | None = None
    reason: Annotated[str, Field(max_length=MAX_REASON_LENGTH)] | None = None
    metadata: Metadata


class NoteLineView(TypedDict):
    """`amount` is of the line as the invoice shows it; `total` is that after invoice discounts and with tax."""

    line: str
    description: str
    amount: str
    total: str


class NoteTaxView(TypedDict):
    key: str
    name: str
    percent: str
    inclusive: bool
    amount: str


class CreditNoteView(ObjectView):
    """A credit note. `amount`, with `tax`: `amount_adjusted` off what was due, `amount_credited` to the customer's
    credit, `amount_refunded` to be paid back."""

    object: Literal["credit_note"]
    number: str
    invoice: str
    invoice_number: str
    customer: str
    kind: Literal["adjustment", "refund"]
    currency: str
    amount: str
    tax: str
    amount_adjusted: str
    amount_credited: str
    amount_refunded: str
    taxes: list[NoteTaxView]
    lines: list[NoteLineView]
    reason: str | None


def to_view(row: Row, lines: Sequence[Row]) -> CreditNoteView:
    currency = row["currency"]

    def amount(minor: int) -> str:
        return format_amount(from_minor(minor, currency), currency)

    return {
        "object": "credit_note",
        "id": row["id"],
        "number": row["number"],
        "invoice": row["invoice_id"],
        "invoice_number": row["invoice_number"],
        "customer": row["external_id"],
        "kind": row["kind"],
        "currency": currency,
        "amount": amount(row["amount_minor"]),
        "tax": amount(row["tax_minor"]),
        "amount_adjusted": amount(row["adjusted_minor"]),
        "amount_credited": amount(row["credit_minor"]),
        "amount_refunded": amount(row["refund_minor"]),
        "taxes": row["taxes"],
        "lines": [
            {
                "line": line_id(
                    invoice_id=row["invoice_id"],
                    subscription_id=row["subscription_id"],
                    kind=row["invoice_kind"],
                    period_end=row["invoice_period_end"],
                    position=line["position"],
                ),
                "description": line["description"],
                "amount": amount(line["amount_minor"]),
                "total": amount(line["total_minor"]),
            }
            for line in lines
        ],
        "reason": row["reason"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


@router.post("/v1/credit_notes", status_code=201, response_model=CreditNoteView, operation_id="create_credit_note")
def create_credit_note(body: CreditNoteBody, call: AdminCall) -> Response:
    """Take back an amount, or amounts of lines, of a final invoice: never more than is left of either."""
    return call.perform(lambda connection: _create(connection, body, call.tenant_id, call.now))


def _create(connection: PgConnection, body: CreditNoteBody, tenant_id: str, now: datetime) -> CreditNoteView:
    invoice = lock_invoice(connection, tenant_id=tenant_id, id_or_number=body.invoice)
    check_final(invoice)
    now = clock_now(connection, invoice["test_clock_id"], now, hold=True)
    if invoice["status"] == "void":
        raise Conflict("invoice.void", f"Invoice {invoice['number']} is void: nothing is left of it.")
    check_not_pending(connection, invoice)
    credited = _price(body, invoice, credit_notes.load_credited(connection, invoice))
    credit_note_id = new_id(Prefix.CREDIT_NOTE)
    credit_notes.insert_credit_note(
        connection,
        invoice,
        credited,
        _effect(invoice, body.kind, to_minor(credited.amount, invoice["currency"])),
        credit_note_id=credit_note_id,
        kind=body.kind,
        reason=body.reason,
        metadata=body.metadata,
        now=now,
    )
    view = _load_view(connection, tenant_id, credit_note_id)
    outbox.append(
        connection,
        tenant_id=tenant_id,
        event=SystemEvent.CREDIT_NOTE_CREATED,
        object_id=credit_note_id,
        data={**view},
        now=now,
    )
    return view


def _price(body: CreditNoteBody, invoice: Row, state: CreditedInvoice) -> Credited:
    """Raises Reject for what is not there, is named twice, or exceeds what is left."""
    if (body.amount is None) == (body.lines is None):
        raise Reject.at("/amount", "credit_note.invalid_amount", "Name either an amount or lines.")
    currency = invoice["currency"]
    if body.amount is not None:
        return credit_amount(state, from_minor(read_amount(body.amount, currency), currency))
    places = {line_id_of(invoice, place): place for place in range(len(state.lines))}
    amounts: dict[int, tuple[Decimal, str]] = {}
    for index, line in enumerate(body.lines or ()):
        place = places.get(line.line)
        where = pointer("lines", index)
        if place is None:
            raise Reject.at(f"{where}/line", "credit_note.unknown_line", f"The invoice has no line {line.line!r}.")
        if place in amounts:
            raise Reject.at(f"{where}/line", "credit_note.duplicate_line", "This line is named twice.")
        minor = read_amount(line.amount, currency, f"{where}/amount")
        amounts[place] = (from_minor(minor, currency), f"{where}/amount")
    return credit_lines(state, amounts)


def _effect(invoice: Row, kind: str, amount_minor: int) -> Effect:
    """Where the amount goes. Raises Reject `credit_note.exceeds_paid` for a refund of more than was paid."""
    if kind == "adjustment":
        adjusted = min(amount_minor, invoice["amount_due_minor"] - invoice["amount_paid_minor"])
        return Effect(adjusted_minor=adjusted, credit_minor=amount_minor - adjusted)
    paid = invoice["amount_paid_minor"] - invoice["refunded_minor"]
    if amount_minor > paid:
        currency = invoice["currency"]
        left = format_amount(from_minor(paid, currency), currency)
        raise Reject.at("/amount", "credit_note.exceeds_paid", f"Only {left} {currency} can be paid back.")
    return Effect(refund_minor=amount_minor)


def _load_view(connection: PgConnection, tenant_id: str, id_or_number: str) -> CreditNoteView:
    row = credit_notes.load_credit_note(connection, tenant_id=tenant_id, id_or_number=id_or_number)
    if row is None:
        raise NotFound("credit_note.not_found", f"There is no credit note {id_or_number!r}.")
    return to_view(row, credit_notes.load_lines(connection, [row["id"]])[row["id"]])


@router.get("/v1/credit_notes", response_model=ListView[CreditNoteView], operation_id="list_credit_notes")
def list_credit_notes(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    invoice: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
) -> Response:
    """The tenant's credit notes, newest first."""
    tenant_id = principal.tenant_id
    before_id = check_cursor(starting_after, Prefix.CREDIT_NOTE)
    with context.database.transaction() as connection:
        rows = credit_notes.list_credit_notes(
            connection,
            tenant_id=tenant_id,
            invoice_id=None if invoice is None else invoices.find_invoice_id(connection, tenant_id, invoice),
            customer_id=None if customer is None else find_customer(connection, tenant_id, customer)["id"],
            before_id=before_id,
            limit=limit + 1,
        )
        lines = credit_notes.load_lines(connection, [row["id"] for row in rows])

    def view(row: Row) -> dict[str, Any]:
        return {**to_view(row, lines[row["id"]])}

    return answer(page(rows, limit, view))


@router.get("/v1/credit_notes/{credit_note}", response_model=CreditNoteView, operation_id="get_credit_note")
def get_credit_note(credit_note: str, principal: Reader, context: FromContext) -> Response:
    """One credit note, by its id or its number."""
    with context.database.transaction() as connection:
        return answer(_load_view(connection, principal.tenant_id, credit_note))
