"""Credit notes: what is taken back of final invoices. They are final themselves from the start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.postgres.billing_settings import load_settings
from infra.postgres.credits import CreditEntry
from infra.postgres.invoice_lifecycle import payable, reduce_due
from infra.postgres.invoice_rows import format_number
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from infra.postgres.refunds import refund_credit_note
from infra.postgres.settlement import give_credit, take_back_top_up
from schemas.billing import InvoiceKind
from schemas.credit_notes import Credited, CreditedInvoice, LineCredit
from schemas.errors import Reject
from schemas.money import format_amount, from_minor, to_minor

_NOTE_SQL = """
SELECT n.*, c.external_id, i.number AS invoice_number, i.subscription_id, i.kind AS invoice_kind,
       i.period_end AS invoice_period_end
FROM credit_notes n JOIN customers c ON c.id = n.customer_id JOIN invoices i ON i.id = n.invoice_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Where the amount of a note goes, in minor units: off what is due, to the customer's credit, back as money."""

    adjusted_minor: int = 0
    credit_minor: int = 0
    refund_minor: int = 0


def load_credited(connection: PgConnection, invoice: Row) -> CreditedInvoice:
    """A locked invoice and what has been taken back of it."""
    currency = invoice["currency"]
    lines = connection.execute(
        "SELECT l.amount_minor, coalesce(sum(n.amount_minor), 0) AS credited_minor,"
        " coalesce(sum(n.total_minor), 0) AS credited_total_minor FROM invoice_lines l"
        " LEFT JOIN credit_note_lines n ON n.invoice_id = l.invoice_id AND n.position = l.position"
        " WHERE l.invoice_id = %s GROUP BY l.position, l.amount_minor ORDER BY l.position",
        (invoice["id"],),
    ).fetchall()
    notes = connection.execute("SELECT taxes FROM credit_notes WHERE invoice_id = %s", (invoice["id"],)).fetchall()
    taxes = invoice["taxes"]
    credited_taxes = [Decimal(0)] * len(taxes)
    for note in notes:
        for place, tax in enumerate(note["taxes"]):
            credited_taxes[place] += Decimal(tax["amount"])
    return CreditedInvoice(
        currency=currency,
        total=from_minor(invoice["total_minor"], currency),
        lines=[from_minor(line["amount_minor"], currency) for line in lines],
        taxes=[Decimal(tax["amount"]) for tax in taxes],
        credited=from_minor(invoice["credited_minor"], currency),
        credited_lines={
            place: LineCredit(
                amount=from_minor(int(line["credited_minor"]), currency),
                total=from_minor(int(line["credited_total_minor"]), currency),
            )
            for place, line in enumerate(lines)
        },
        credited_taxes=credited_taxes,
    )


def insert_credit_note(
    connection: PgConnection,
    invoice: Row,
    credited: Credited,
    effect: Effect,
    *,
    credit_note_id: str,
    kind: str,
    reason: str | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> None:
    """Number and store a note of a locked invoice, and do to the invoice and the customer's credit what it says.

    Locks the tenant's sequence of credit notes and then, when it gets credit or pays a top-up back, the customer.
    Raises Reject for more than can be taken back of a top-up: what it had bought stands in the wallet already.
    """
    if invoice["kind"] == InvoiceKind.TOP_UP and effect.credit_minor:
        raise Reject.at(
            "/kind", "credit_note.top_up_paid", "What was paid of a top-up is credit already; take it back by a refund."
        )
    currency = invoice["currency"]
    connection.execute(
        "INSERT INTO credit_notes (id, tenant_id, invoice_id, customer_id, number, kind, currency, amount_minor,"
        " tax_minor, adjusted_minor, credit_minor, refund_minor, taxes, reason, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            credit_note_id,
            invoice["tenant_id"],
            invoice["id"],
            invoice["customer_id"],
            _draw_number(connection, invoice["tenant_id"]),
            kind,
            currency,
            to_minor(credited.amount, currency),
            sum(to_minor(tax, currency) for tax in credited.taxes),
            effect.adjusted_minor,
            effect.credit_minor,
            effect.refund_minor,
            jsonb(_taxes(invoice, credited)),
            reason,
            jsonb(metadata),
            now,
        ),
    )
    _insert_lines(connection, invoice, credited, credit_note_id)
    if effect.credit_minor:
        give_credit(connection, [_entry(invoice, effect.credit_minor, credit_note_id)], now=now)
    connection.execute(
        "UPDATE invoices SET credited_minor = credited_minor + %s, refunded_minor = refunded_minor + %s WHERE id = %s",
        (effect.credit_minor + effect.refund_minor, effect.refund_minor, invoice["id"]),
    )
    if effect.refund_minor and invoice["kind"] == InvoiceKind.TOP_UP:
        take_back_top_up(
            connection, payable(invoice), amount_minor=effect.refund_minor, credit_note_id=credit_note_id, now=now
        )
    if effect.refund_minor:
        refund_credit_note(
            connection, invoice, credit_note_id=credit_note_id, amount_minor=effect.refund_minor, now=now
        )
    if effect.adjusted_minor:
        reduce_due(connection, invoice, adjusted_minor=effect.adjusted_minor, now=now)


def _draw_number(connection: PgConnection, tenant_id: str) -> str:
    row = connection.execute(
        "INSERT INTO credit_note_sequences AS s (tenant_id, next_number) VALUES (%s, 2)"
        " ON CONFLICT (tenant_id) DO UPDATE SET next_number = s.next_number + 1 RETURNING next_number - 1 AS number",
        (tenant_id,),
    ).fetchone()
    assert row is not None
    prefix = load_settings(connection, [tenant_id])[tenant_id].credit_note_prefix
    return format_number(prefix, row["number"])


def _entry(invoice: Row, amount_minor: int, credit_note_id: str) -> CreditEntry:
    return CreditEntry(
        tenant_id=invoice["tenant_id"],
        customer_id=invoice["customer_id"],
        currency=invoice["currency"],
        amount_minor=amount_minor,
        invoice_id=invoice["id"],
        credit_note_id=credit_note_id,
    )


def _taxes(invoice: Row, credited: Credited) -> list[dict[str, Any]]:
    return [
        {
            "key": tax["key"],
            "name": tax["name"],
            "percent": tax["percent"],
            "inclusive": tax["inclusive"],
            "amount": format_amount(amount, invoice["currency"]),
        }
        for tax, amount in zip(invoice["taxes"], credited.taxes, strict=True)
    ]


def _insert_lines(connection: PgConnection, invoice: Row, credited: Credited, credit_note_id: str) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY credit_note_lines (credit_note_id, invoice_id, position, amount_minor, total_minor) FROM STDIN"
        ) as copy,
    ):
        for position, line in credited.lines.items():
            amounts = (to_minor(line.amount, invoice["currency"]), to_minor(line.total, invoice["currency"]))
            copy.write_row((credit_note_id, invoice["id"], position, *amounts))


def load_credit_note(connection: PgConnection, *, tenant_id: str, id_or_number: str) -> Row | None:
    """One note of the tenant, with its customer's `external_id` and what names its invoice and its lines."""
    return connection.execute(
        _NOTE_SQL + " WHERE n.tenant_id = %s AND (n.id = %s OR n.number = %s)", (tenant_id, id_or_number, id_or_number)
    ).fetchone()


def list_credit_notes(
    connection: PgConnection,
    *,
    tenant_id: str,
    invoice_id: str | None,
    customer_id: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's notes, newest first."""
    return connection.execute(
        _NOTE_SQL + " WHERE n.tenant_id = %(tenant_id)s"
        " AND (%(invoice_id)s::text IS NULL OR n.invoice_id = %(invoice_id)s)"
        " AND (%(customer_id)s::text IS NULL OR n.customer_id = %(customer_id)s)"
        " AND (%(before_id)s::text IS NULL OR n.id < %(before_id)s) ORDER BY n.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "invoice_id": invoice_id,
            "customer_id": customer_id,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def load_lines(connection: PgConnection, credit_note_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The lines of notes with their descriptions, by note."""
    rows = connection.execute(
        "SELECT n.credit_note_id, n.position, n.amount_minor, n.total_minor, l.description FROM credit_note_lines n"
        " JOIN invoice_lines l ON l.invoice_id = n.invoice_id AND l.position = n.position"
        " WHERE n.credit_note_id = ANY(%s) ORDER BY n.credit_note_id, n.position",
        (list(credit_note_ids),),
    )
    lines: dict[str, list[Row]] = {credit_note_id: [] for credit_note_id in credit_note_ids}
    for row in rows:
        lines[row["credit_note_id"]].append(row)
    return lines
