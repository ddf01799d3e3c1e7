"""Payments of invoices. An invoice's amount_paid is the sum of its succeeded payments, never more than is due."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.postgres.invoice_lifecycle import check_final, reduce_due
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.errors import Conflict
from schemas.money import format_amount, from_minor

MAX_REFERENCE_LENGTH = 255

_PAYMENT_SQL = """
SELECT p.*, c.external_id, i.number FROM payments p
JOIN customers c ON c.id = p.customer_id JOIN invoices i ON i.id = p.invoice_id
"""


def describe(row: Row) -> dict[str, Any]:
    """A payment of `load_payment` as the API and events show it."""
    currency = row["currency"]
    return {
        "object": "payment",
        "id": row["id"],
        "invoice": row["invoice_id"],
        "invoice_number": row["number"],
        "customer": row["external_id"],
        "currency": currency,
        "amount": format_amount(from_minor(row["amount_minor"], currency), currency),
        "amount_excess": format_amount(from_minor(row["excess_minor"], currency), currency),
        "provider": row["provider"],
        "reference": row["reference"],
        "status": row["status"],
        "failure_code": row["failure_code"],
        "decline_code": row["decline_code"],
        "succeeded_at": row["succeeded_at"],
        "failed_at": row["failed_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def check_payable(invoice: Row) -> None:
    """Raises Conflict for an invoice that takes no payments: a draft, a paid one, a void one."""
    check_final(invoice)
    if invoice["status"] not in ("open", "uncollectible"):
        raise Conflict("invoice.not_open", f"Invoice {invoice['number']} is {invoice['status']}: it takes no payment.")


def insert_payment(
    connection: PgConnection,
    invoice: Row,
    *,
    payment_id: str,
    amount_minor: int,
    provider: str,
    reference: str | None,
    metadata: Mapping[str, str],
    now: datetime,
) -> None:
    """Store a payment that has succeeded, of a locked invoice: it counts at once.

    Raises Conflict `payment.already_exists` when the invoice has one of this provider and reference.
    """
    stored = connection.execute(
        "INSERT INTO payments (id, tenant_id, invoice_id, customer_id, currency, amount_minor, provider, reference,"
        " status, metadata, created_at, succeeded_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'succeeded', %s, %s, %s)"
        " ON CONFLICT (invoice_id, provider, reference) DO NOTHING RETURNING id",
        (
            payment_id,
            invoice["tenant_id"],
            invoice["id"],
            invoice["customer_id"],
            invoice["currency"],
            amount_minor,
            provider,
            reference,
            jsonb(metadata),
            now,
            now,
        ),
    ).fetchone()
    if stored is None:
        raise Conflict(
            "payment.already_exists", f"The invoice has a payment of {provider} with the reference {reference!r}."
        )
    reduce_due(connection, invoice, paid_minor=amount_minor, now=now)


def load_payment(connection: PgConnection, *, tenant_id: str, payment_id: str) -> Row | None:
    """One payment of the tenant, with its customer's `external_id` and its invoice's `number`."""
    return connection.execute(
        _PAYMENT_SQL + " WHERE p.tenant_id = %s AND p.id = %s", (tenant_id, payment_id)
    ).fetchone()


def list_payments(
    connection: PgConnection,
    *,
    tenant_id: str,
    invoice_id: str | None,
    customer_id: str | None,
    status: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's payments, newest first."""
    return connection.execute(
        _PAYMENT_SQL + " WHERE p.tenant_id = %(tenant_id)s"
        " AND (%(invoice_id)s::text IS NULL OR p.invoice_id = %(invoice_id)s)"
        " AND (%(customer_id)s::text IS NULL OR p.customer_id = %(customer_id)s)"
        " AND (%(status)s::text IS NULL OR p.status = %(status)s)"
        " AND (%(before_id)s::text IS NULL OR p.id < %(before_id)s) ORDER BY p.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "invoice_id": invoice_id,
            "customer_id": customer_id,
            "status": status,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()
