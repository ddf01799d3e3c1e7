"""Invoices and their lines, read back as they were issued."""

from collections.abc import Sequence
from typing import Any

from infra.postgres.pool import PgConnection, Row
from schemas.errors import NotFound

INVOICE_SQL = """
SELECT i.id, i.tenant_id, i.number, i.status, i.kind, i.currency, i.customer_id, c.external_id, c.test_clock_id,
       i.subscription_id,
       ARRAY(SELECT s.subscription_id FROM invoice_statements s WHERE s.invoice_id = i.id ORDER BY 1)
         AS subscription_ids,
       i.period_start, i.period_end, i.subtotal_minor, i.discount_minor, i.tax_minor, i.added_tax_minor, i.total_minor,
       i.credits_applied_minor, i.amount_due_minor, i.amount_paid_minor, i.adjusted_minor, i.credited_minor,
       i.refunded_minor, i.taxes, i.discounts, i.terms, i.as_of, i.metadata, i.created_at, i.draft_until,
       i.finalized_at, i.due_at, i.paid_at, i.voided_at, i.uncollectible_at, i.dunning_at, i.overdue_at, i.blocks_at,
       i.dunning, i.dunning_failure
FROM invoices i JOIN customers c ON c.id = i.customer_id
"""


def list_invoices(
    connection: PgConnection,
    *,
    tenant_id: str,
    customer_id: str | None = None,
    subscription_id: str | None = None,
    status: str | None = None,
    before_id: str | None = None,
    limit: int,
) -> list[Row]:
    """The tenant's invoices, newest first, from the one before `before_id` on, those that the filters let through."""
    return connection.execute(
        INVOICE_SQL + " WHERE i.tenant_id = %(tenant_id)s"  # noqa: S608 - texts of this file
        " AND (%(customer_id)s::text IS NULL OR i.customer_id = %(customer_id)s)"
        " AND (%(subscription_id)s::text IS NULL OR i.id IN"
        " (SELECT s.invoice_id FROM invoice_statements s WHERE s.subscription_id = %(subscription_id)s))"
        " AND (%(status)s::text IS NULL OR i.status = %(status)s)"
        " AND (%(before_id)s::text IS NULL OR i.id < %(before_id)s) ORDER BY i.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "subscription_id": subscription_id,
            "status": status,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def load_invoice(connection: PgConnection, *, tenant_id: str, id_or_number: str) -> Row | None:
    """One invoice of the tenant, by its id or its number."""
    return connection.execute(
        INVOICE_SQL + " WHERE i.tenant_id = %s AND (i.id = %s OR i.number = %s)",
        (tenant_id, id_or_number, id_or_number),
    ).fetchone()


def load_lines(connection: PgConnection, invoice_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The lines of invoices in their order, by invoice id."""
    rows = connection.execute(
        "SELECT invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor, period_start,"
        " period_end, meter_no, price, explain, subscription_id FROM invoice_lines WHERE invoice_id = ANY(%s)"
        " ORDER BY invoice_id, position",
        (list(invoice_ids),),
    )
    lines: dict[str, list[Row]] = {invoice_id: [] for invoice_id in invoice_ids}
    for row in rows:
        lines[row["invoice_id"]].append(row)
    return lines


def load_line_customers(connection: PgConnection, invoice_id: str) -> dict[str, str]:
    """By subscription that stands on an invoice, its customer's external_id."""
    rows = connection.execute(
        "SELECT s.id, c.external_id FROM invoice_statements t JOIN subscriptions s ON s.id = t.subscription_id"
        " JOIN customers c ON c.id = s.customer_id WHERE t.invoice_id = %s",
        (invoice_id,),
    )
    return {row["id"]: row["external_id"] for row in rows}


def find_invoice_id(connection: PgConnection, tenant_id: str, id_or_number: str) -> str:
    """The id of one invoice of the tenant. Raises NotFound."""
    row = load_invoice(connection, tenant_id=tenant_id, id_or_number=id_or_number)
    if row is None:
        raise NotFound("invoice.not_found", f"There is no invoice {id_or_number!r}.")
    return row["id"]


def load_parties(connection: PgConnection, invoice_id: str) -> dict[str, Any] | None:
    """Who stands on an invoice, as they were at its finalization; None for a draft and for the oldest invoices."""
    row = connection.execute("SELECT parties FROM invoices WHERE id = %s", (invoice_id,)).fetchone()
    return None if row is None else row["parties"]
