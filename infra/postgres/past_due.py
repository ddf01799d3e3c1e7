"""Subscriptions that are past due: since when, by their invoices, and what is told when that begins and ends.

`past_due_since` and `blocked_at` of a subscription are the least `overdue_at` and `blocks_at` of its open invoices that
are dunned. Whoever makes an invoice one of these, or one no more, calls `refresh` in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres import outbox
from infra.postgres.pool import PgConnection, Row
from infra.postgres.subscriptions import load_subscription
from schemas.topics import SystemEvent

OVER = frozenset({"canceled", "ended"})


def lock_subscriptions(connection: PgConnection, subscription_ids: Sequence[str]) -> dict[str, Row]:
    """Keep everybody else from changing these until we commit, in the order of their ids; since when each is past
    due. Locks of invoices are taken before, those of customers after."""
    rows = connection.execute(
        "SELECT id, tenant_id, past_due_since FROM subscriptions WHERE id = ANY(%s) ORDER BY id FOR UPDATE",
        (list(subscription_ids),),
    )
    return {row["id"]: row for row in rows}


def refresh(connection: PgConnection, subscription_ids: Sequence[str], *, now: datetime) -> None:
    """Let these subscriptions be what their invoices make of them by now, and tell of those that are past due from now
    on, or no longer. Of one that has ended nothing is told."""
    before = lock_subscriptions(connection, subscription_ids)
    # A statement of its own, begun once the locks are held: it sees what whoever had them before has committed.
    changed = connection.execute(
        "UPDATE subscriptions AS s SET past_due_since = owed.since, blocked_at = owed.blocked_at FROM"
        " (SELECT s.id, min(i.overdue_at) AS since, min(i.blocks_at) AS blocked_at FROM subscriptions s"
        "  LEFT JOIN invoice_statements st ON st.subscription_id = s.id"
        "  LEFT JOIN invoices i ON i.id = st.invoice_id AND i.status = 'open' AND i.dunning IS NOT NULL"
        "  WHERE s.id = ANY(%s) GROUP BY s.id) AS owed"
        " WHERE s.id = owed.id AND (s.past_due_since, s.blocked_at) IS DISTINCT FROM (owed.since, owed.blocked_at)"
        " RETURNING s.id, s.past_due_since",
        (list(subscription_ids),),
    ).fetchall()
    for row in sorted(changed, key=lambda row: row["id"]):
        former = before[row["id"]]
        if (former["past_due_since"] is None) != (row["past_due_since"] is None):
            _tell(connection, former, is_past_due=row["past_due_since"] is not None, now=now)


def _tell(connection: PgConnection, subscription: Row, *, is_past_due: bool, now: datetime) -> None:
    row = load_subscription(
        connection, tenant_id=subscription["tenant_id"], subscription_id=subscription["id"], now=now
    )
    assert row is not None
    if row["status_now"] in OVER:
        return
    outbox.append(
        connection,
        tenant_id=row["tenant_id"],
        event=SystemEvent.SUBSCRIPTION_PAST_DUE if is_past_due else SystemEvent.SUBSCRIPTION_RECOVERED,
        object_id=row["id"],
        data={
            "id": row["id"],
            "customer": row["external_id"],
            "status": row["status_now"],
            "past_due_since": row["past_due_since"],
            "blocked_at": row["blocked_at"],
        },
        now=now,
    )
