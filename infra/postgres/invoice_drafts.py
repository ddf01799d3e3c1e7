"""Drafts of one-off invoices: priced anew, or taken away, until they are final. Their rows are locked by the caller."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.postgres.invoice_events import copy_events, event_row, state_of
from infra.postgres.invoice_rows import computed_columns, copy_lines
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.billing import Invoice
from schemas.money import to_minor
from schemas.topics import SystemEvent


def replace_draft(
    connection: PgConnection, row: Row, invoice: Invoice, *, terms: Mapping[str, Any], now: datetime
) -> None:
    """Write a draft's new terms and what they come to; its lines are replaced."""
    columns = computed_columns(invoice)
    due_minor = max(to_minor(invoice.total, invoice.currency), 0)
    connection.execute(
        "UPDATE invoices SET subtotal_minor = %(subtotal_minor)s, discount_minor = %(discount_minor)s,"
        " tax_minor = %(tax_minor)s, added_tax_minor = %(added_tax_minor)s, total_minor = %(total_minor)s,"
        " amount_due_minor = %(due_minor)s, taxes = %(taxes)s, discounts = %(discounts)s, terms = %(terms)s"
        " WHERE id = %(id)s",
        {**columns, "due_minor": due_minor, "terms": jsonb(terms), "id": row["id"]},
    )
    connection.execute("DELETE FROM invoice_lines WHERE invoice_id = %s", (row["id"],))
    copy_lines(connection, [(row["id"], None, invoice)])
    changed = {**row, "total_minor": columns["total_minor"], "amount_due_minor": due_minor}
    copy_events(connection, [event_row(SystemEvent.INVOICE_UPDATED, state_of(changed), now=now)])


def set_metadata(connection: PgConnection, row: Row, metadata: Mapping[str, str]) -> None:
    connection.execute("UPDATE invoices SET metadata = %s WHERE id = %s", (jsonb(metadata), row["id"]))


def delete_draft(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Take a draft away as if it had never been; it had no number."""
    connection.execute("DELETE FROM invoice_lines WHERE invoice_id = %s", (row["id"],))
    connection.execute("DELETE FROM invoices WHERE id = %s", (row["id"],))
    copy_events(connection, [event_row(SystemEvent.INVOICE_DELETED, state_of(row), now=now)])
