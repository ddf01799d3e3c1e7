"""Issuing: numbers, settlement, rows, lines and system events of new invoices, in the caller's one transaction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.crash_points import crash_point
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from infra.postgres.settlement import Payable, book, settle
from schemas.billing import Invoice
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor, to_minor
from schemas.topics import SystemEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvoice:
    """An invoice to be issued. `customer_id` and `external_id` are the payer's; `as_of`: every event acknowledged
    before it is in the usage. With `draft_until` it stands as a draft until then; without it is finalized at once."""

    tenant_id: str
    customer_id: str
    external_id: str
    subscription_id: str | None
    invoice: Invoice
    as_of: datetime | None
    draft_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An issued invoice, in the order of those given. Amounts in minor units; a draft has no number yet."""

    id: str
    number: str | None
    status: str
    credits_applied_minor: int
    amount_due_minor: int


def issue_invoices(connection: PgConnection, invoices: Sequence[NewInvoice], *, now: datetime) -> list[Issued]:
    """Settle, number and store invoices, with their lines and system events.

    Locks customers by id, then tenants' sequences by id. Numbers are drawn only for invoices that this transaction
    inserts, so they have no gaps.
    """
    ids = [new_id(Prefix.INVOICE) for _ in invoices]
    settlement = settle(connection, [_payable(new, invoice_id) for new, invoice_id in zip(invoices, ids, strict=True)])
    numbers = draw_numbers(connection, Counter(new.tenant_id for new in invoices))
    crash_point("billing.numbered")
    issued: list[Issued] = []
    for new, invoice_id in zip(invoices, ids, strict=True):
        number = f"INV-{numbers[new.tenant_id]:06d}"
        numbers[new.tenant_id] += 1
        issued.append(_issued(new, invoice_id, number, settlement.applied_minor[invoice_id]))
    pairs = list(zip(invoices, issued, strict=True))
    _copy_invoices(connection, [_invoice_row(new, made, now) for new, made in pairs])
    crash_point("billing.invoices_written")
    _copy_lines(connection, [(made.id, new.invoice) for new, made in pairs])
    crash_point("billing.lines_written")
    book(connection, settlement, now=now)
    crash_point("billing.credits_written")
    copy_events(connection, [_finalized_event(new, made, now) for new, made in pairs])
    return issued


def _payable(new: NewInvoice, invoice_id: str) -> Payable:
    return Payable(
        invoice_id=invoice_id,
        tenant_id=new.tenant_id,
        customer_id=new.customer_id,
        currency=new.invoice.currency,
        total_minor=to_minor(new.invoice.total, new.invoice.currency),
    )


def _issued(new: NewInvoice, invoice_id: str, number: str, applied_minor: int) -> Issued:
    due_minor = max(to_minor(new.invoice.total, new.invoice.currency), 0) - applied_minor
    return Issued(
        id=invoice_id,
        number=number,
        status="open" if due_minor > 0 else "paid",  # nothing to pay is paid
        credits_applied_minor=applied_minor,
        amount_due_minor=due_minor,
    )


def draw_numbers(connection: PgConnection, wanted: Counter[str]) -> dict[str, int]:
    """By tenant, the first of as many consecutive numbers as are wanted."""
    first: dict[str, int] = {}
    for tenant_id, count in sorted(wanted.items()):
        row = connection.execute(
            "INSERT INTO invoice_sequences AS s (tenant_id, next_number) VALUES (%(tenant_id)s, 1 + %(count)s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET next_number = s.next_number + %(count)s"
            " RETURNING next_number - %(count)s AS first",
            {"tenant_id": tenant_id, "count": count},
        ).fetchone()
        assert row is not None
        first[tenant_id] = row["first"]
    return first


def _invoice_row(new: NewInvoice, made: Issued, now: datetime) -> tuple[Any, ...]:
    invoice = new.invoice
    amounts = (invoice.subtotal, invoice.discount, invoice.tax, invoice.total)
    return (
        made.id,
        new.tenant_id,
        new.customer_id,
        new.subscription_id,
        invoice.kind,
        invoice.period.start,
        invoice.period.end,
        made.number,
        made.status,
        invoice.currency,
        *(to_minor(amount, invoice.currency) for amount in amounts),
        made.credits_applied_minor,
        made.amount_due_minor,
        new.as_of,
        now,
        now,
    )


def _copy_invoices(connection: PgConnection, rows: Sequence[tuple[Any, ...]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoices (id, tenant_id, customer_id, subscription_id, kind, period_start, period_end, number,"
            " status, currency, subtotal_minor, discount_minor, tax_minor, total_minor, credits_applied_minor,"
            " amount_due_minor, as_of, created_at, finalized_at) FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def _copy_lines(connection: PgConnection, invoices: Sequence[tuple[str, Invoice]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoice_lines (invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor,"
            " period_start, period_end, meter_no, price, explain) FROM STDIN"
        ) as copy,
    ):
        for invoice_id, invoice in invoices:
            for position, line in enumerate(invoice.lines):
                copy.write_row(
                    (
                        invoice_id,
                        position,
                        line.key,
                        line.description,
                        line.quantity,
                        line.unit_amount,
                        line.exact,
                        to_minor(line.amount, invoice.currency),
                        line.period.start,
                        line.period.end,
                        line.meter_no,
                        jsonb(line.price),
                        jsonb(line.explain),
                    )
                )


def _finalized_event(new: NewInvoice, made: Issued, now: datetime) -> tuple[Any, ...]:
    currency = new.invoice.currency
    data = {
        "id": made.id,
        "number": made.number,
        "customer": new.external_id,
        "subscription": new.subscription_id,
        "currency": currency,
        "total": format_amount(new.invoice.total, currency),
        "amount_due": format_amount(from_minor(made.amount_due_minor, currency), currency),
    }
    return (new_id(Prefix.SYSTEM_EVENT), new.tenant_id, SystemEvent.INVOICE_FINALIZED, made.id, jsonb(data), now)


def copy_events(connection: PgConnection, events: Sequence[tuple[Any, ...]]) -> None:
    """Many rows of the outbox at once: id, tenant_id, type, object_id, data, created_at."""
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY outbox (id, tenant_id, type, object_id, data, created_at) FROM STDIN") as copy,
    ):
        for event in events:
            copy.write_row(event)
