"""Drafts that are to be finalized by themselves, in the order of their instants."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.due import Due, Moment, page_parameters
from infra.postgres.pool import PgConnection


def load_due_drafts(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` drafts whose `draft_until` has come, from beyond `after` on."""
    rows = connection.execute(
        "SELECT i.draft_until AS at, i.id FROM invoices i JOIN customers c ON c.id = i.customer_id"
        " WHERE i.status = 'draft' AND i.draft_until <= %(now)s"
        " AND c.test_clock_id IS NOT DISTINCT FROM %(clock_id)s::text"
        " AND (%(after_id)s::text IS NULL OR (i.draft_until, i.id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY i.draft_until, i.id LIMIT %(limit)s",
        page_parameters(moment, after, limit),
    )
    return [Due(row["at"], row["id"]) for row in rows]


def earliest_drafts(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first draft of its customers is to be finalized."""
    rows = connection.execute(
        "SELECT c.test_clock_id, min(i.draft_until) AS at FROM customers c JOIN invoices i ON i.customer_id = c.id"
        " WHERE c.test_clock_id = ANY(%s) AND i.status = 'draft' AND i.draft_until IS NOT NULL"
        " GROUP BY c.test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


def postpone_draft(connection: PgConnection, invoice_id: str, *, until: datetime) -> None:
    """Let a draft that can't be finalized stand longer."""
    connection.execute("UPDATE invoices SET draft_until = %s WHERE id = %s AND status = 'draft'", (until, invoice_id))
