"""Open invoices that are to be looked at because they are not paid: found, locked, and written back after a look."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.due import Due, DueRows, Moment, earliest_rows, load_due_rows
from infra.postgres.invoices import INVOICE_SQL
from infra.postgres.jsonb import jsonb
from infra.postgres.past_due import lock_subscriptions
from infra.postgres.pool import PgConnection, Row
from schemas.invoicing import DunningProgress

MAX_FAILURE = 500  # characters of a reason

_TO_LOOK_AT = DueRows(table="invoices", at="dunning_at", condition="status = 'open'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at an invoice makes of it; `next_at` None: it is not looked at again."""

    invoice_id: str
    overdue_at: datetime
    blocks_at: datetime | None
    progress: DunningProgress | None
    next_at: datetime | None


def load_due_dunning(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` open invoices that are to be looked at, by (dunning_at, id), from beyond `after` on."""
    return load_due_rows(connection, _TO_LOOK_AT, moment=moment, after=after, limit=limit)


def earliest_dunning(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first open invoice of its customers is to be looked at."""
    return earliest_rows(connection, _TO_LOOK_AT, clock_ids)


def lock_due(connection: PgConnection, invoice_ids: Sequence[str], *, now: datetime) -> list[Row]:
    """Those of these invoices that are to be looked at by `now`. Nobody changes them or their subscriptions before we
    commit."""
    rows = connection.execute(
        INVOICE_SQL + " WHERE i.id = ANY(%s) AND i.status = 'open' AND i.dunning_at <= %s ORDER BY i.id"
        " FOR UPDATE OF i",
        (list(invoice_ids), now),
    ).fetchall()
    lock_subscriptions(connection, [subscription_id for row in rows for subscription_id in row["subscription_ids"]])
    return rows


def load_pending(connection: PgConnection, invoice_ids: Sequence[str]) -> set[str]:
    """Those of these invoices for which money is on its way."""
    rows = connection.execute(
        "SELECT DISTINCT invoice_id FROM payments WHERE invoice_id = ANY(%s) AND status = 'pending'",
        (list(invoice_ids),),
    )
    return {row["invoice_id"] for row in rows}


def save_looks(connection: PgConnection, looks: Sequence[Look]) -> None:
    """Write what was seen of locked invoices."""
    connection.execute(
        "UPDATE invoices AS i SET overdue_at = new.overdue_at, blocks_at = new.blocks_at, dunning = new.dunning,"
        " dunning_at = new.next_at, dunning_failure = NULL"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[], %s::jsonb[], %s::timestamptz[])"
        " AS new (id, overdue_at, blocks_at, dunning, next_at) WHERE i.id = new.id",
        (
            [look.invoice_id for look in looks],
            [look.overdue_at for look in looks],
            [look.blocks_at for look in looks],
            [None if look.progress is None else jsonb(look.progress) for look in looks],
            [look.next_at for look in looks],
        ),
    )


def put_off(connection: PgConnection, invoice_ids: Collection[str], *, until: datetime) -> None:
    """Look at locked invoices again later, because money for them is on its way."""
    connection.execute("UPDATE invoices SET dunning_at = %s WHERE id = ANY(%s)", (until, list(invoice_ids)))


def postpone(connection: PgConnection, invoice_id: str, *, until: datetime, reason: str) -> None:
    """Look at an open invoice again later, because its step can't be taken."""
    connection.execute(
        "UPDATE invoices SET dunning_at = %s, dunning_failure = %s"
        " WHERE id = %s AND status = 'open' AND dunning_at IS NOT NULL",
        (until, reason[:MAX_FAILURE], invoice_id),
    )
