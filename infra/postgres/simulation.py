"""What a simulation must know of customers: who they are, how many seats they had, what they were invoiced."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.pool import PgConnection, Row


def load_population(
    connection: PgConnection, *, tenant_id: str, references: Sequence[str] | None, limit: int
) -> list[Row]:
    """The customers with these ids or external_ids, or all that are not archived: up to `limit`, by id."""
    return connection.execute(
        "SELECT id, no, external_id, timezone FROM customers WHERE tenant_id = %(tenant_id)s"
        " AND CASE WHEN %(references)s::text[] IS NULL THEN archived_at IS NULL"
        "     ELSE id = ANY(%(references)s) OR external_id = ANY(%(references)s) END"
        " ORDER BY id LIMIT %(limit)s",
        {"tenant_id": tenant_id, "references": None if references is None else list(references), "limit": limit},
    ).fetchall()


def load_quantities(
    connection: PgConnection, *, customer_ids: Sequence[str], start: datetime, end: datetime
) -> list[Row]:
    """By `customer_id` and price `key`, the `quantity` that subscriptions running in [start, end) name, added up; of
    each one as it is at the end."""
    return connection.execute(
        "SELECT customer_id, key, sum(value::numeric) AS quantity"
        " FROM subscriptions CROSS JOIN LATERAL (SELECT phases.quantities FROM subscription_phases AS phases"
        "   WHERE subscription_id = subscriptions.id AND starts_at < %(end)s ORDER BY starts_at DESC, no DESC LIMIT 1"
        " ) AS phase CROSS JOIN LATERAL jsonb_each_text(phase.quantities) AS named (key, value)"
        " WHERE customer_id = ANY(%(ids)s) AND start_at < %(end)s"
        " AND coalesce(least(end_at, cancel_at), 'infinity') > %(start)s GROUP BY customer_id, key",
        {"ids": list(customer_ids), "start": start, "end": end},
    ).fetchall()


def load_invoiced(
    connection: PgConnection, *, customer_ids: Sequence[str], start: datetime, end: datetime
) -> list[Row]:
    """The open and paid invoices with a line whose period begins in [start, end): `customer_id`, `currency`,
    `discount_minor`, and of every line, in order, its amount (`amounts_minor`) and whether it is such a one (`within`).
    """
    return connection.execute(
        "SELECT i.customer_id, i.currency, i.discount_minor, array_agg(l.amount_minor ORDER BY l.position)"
        " AS amounts_minor, array_agg(l.period_start >= %(start)s AND l.period_start < %(end)s ORDER BY l.position)"
        " AS within FROM invoices i JOIN invoice_lines l ON l.invoice_id = i.id"
        " WHERE i.customer_id = ANY(%(ids)s) AND i.status IN ('open', 'paid') AND i.period_end >= %(start)s"
        " GROUP BY i.id HAVING bool_or(l.period_start >= %(start)s AND l.period_start < %(end)s)",
        {"ids": list(customer_ids), "start": start, "end": end},
    ).fetchall()
