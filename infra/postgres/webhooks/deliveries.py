"""Deliveries: one a message and endpoint, due until it has succeeded or was tried often enough, and its attempts."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from infra.postgres.pool import PgConnection, Row

SHOWN_ATTEMPTS = 20  # the newest of a delivery

_COLUMNS = (
    "webhook_deliveries.*, webhook_messages.type AS type FROM webhook_deliveries"
    " JOIN webhook_messages ON webhook_messages.id = message_id"
)


class Message(NamedTuple):
    """What is told: `id` is that of the system event, `body` the very text that is sent."""

    id: str
    tenant_id: str
    type: str
    body: str


class NewDelivery(NamedTuple):
    id: str
    tenant_id: str
    endpoint_id: str
    message_id: str


class Attempt(NamedTuple):
    """The attempt `no` at a delivery, and what it is afterwards: `pending` with its next attempt, or else."""

    delivery_id: str
    no: int
    attempted_at: datetime
    latency_ms: int
    status_code: int | None
    error: str | None
    response_body: str
    status: str
    next_attempt_at: datetime | None


def insert(
    connection: PgConnection, *, messages: Sequence[Message], deliveries: Sequence[NewDelivery], now: datetime
) -> None:
    """Store messages and whom to tell, due at once; what is there already stays as it is."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO webhook_messages (id, tenant_id, type, body, received_at) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [(*message, now) for message in messages],
        )
        cursor.executemany(
            "INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, message_id, next_attempt_at, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [(*delivery, now, now) for delivery in deliveries],
        )


def load_due(connection: PgConnection, *, endpoint_id: str, now: datetime, limit: int) -> list[Row]:
    """id, message_id, body, url and secrets of what is due, longest due first; nothing of a disabled endpoint."""
    return connection.execute(
        "SELECT d.id, d.message_id, m.body, e.url, e.secret, e.old_secret, e.old_secret_until"
        " FROM webhook_deliveries d JOIN webhook_messages m ON m.id = d.message_id"
        " JOIN webhook_endpoints e ON e.id = d.endpoint_id"
        " WHERE d.endpoint_id = %s AND d.status = 'pending' AND d.next_attempt_at <= %s AND e.disabled_at IS NULL"
        " ORDER BY d.next_attempt_at, d.id LIMIT %s",
        (endpoint_id, now, limit),
    ).fetchall()


def lock_deliveries(
    connection: PgConnection, *, endpoint_id: str, delivery_ids: Sequence[str]
) -> tuple[Row | None, dict[str, Row]]:
    """An endpoint, locked first as everywhere, and of these deliveries those that are there, by id. None when it is
    gone."""
    endpoint = connection.execute(
        "SELECT * FROM webhook_endpoints WHERE id = %s FOR NO KEY UPDATE", (endpoint_id,)
    ).fetchone()
    rows = connection.execute(
        "SELECT * FROM webhook_deliveries WHERE endpoint_id = %s AND id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
        (endpoint_id, list(delivery_ids)),
    )
    return endpoint, {row["id"]: row for row in rows}


def save_attempts(connection: PgConnection, attempts: Sequence[Attempt]) -> None:
    """A line of the log for each of these locked deliveries, and what became of it."""
    rows = [attempt._asdict() for attempt in attempts]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO webhook_attempts"
            " (delivery_id, no, attempted_at, latency_ms, status_code, error, response_body)"
            " VALUES (%(delivery_id)s, %(no)s, %(attempted_at)s, %(latency_ms)s, %(status_code)s, %(error)s,"
            " %(response_body)s)",
            rows,
        )
        cursor.executemany(
            "UPDATE webhook_deliveries SET attempts = %(no)s, tries = tries + 1, status = %(status)s,"
            " next_attempt_at = %(next_attempt_at)s WHERE id = %(delivery_id)s",
            rows,
        )


def begin_anew(connection: PgConnection, *, delivery_id: str, now: datetime) -> None:
    """Make a locked delivery due now, with all tries of the schedule before it."""
    connection.execute(
        "UPDATE webhook_deliveries SET status = 'pending', tries = 0, next_attempt_at = %s WHERE id = %s",
        (now, delivery_id),
    )


def load_delivery(connection: PgConnection, *, tenant_id: str, delivery_id: str) -> Row | None:
    """One delivery with its `type`."""
    return connection.execute(
        "SELECT " + _COLUMNS + " WHERE webhook_deliveries.tenant_id = %s AND webhook_deliveries.id = %s",
        (tenant_id, delivery_id),
    ).fetchone()


def list_deliveries(
    connection: PgConnection, *, endpoint_id: str, status: str | None, before_id: str | None, limit: int
) -> list[Row]:
    """Of an endpoint, newest first, each with its `type`."""
    return connection.execute(
        "SELECT " + _COLUMNS + " WHERE endpoint_id = %(endpoint_id)s"
        " AND (%(status)s::text IS NULL OR status = %(status)s)"
        " AND (%(before_id)s::text IS NULL OR webhook_deliveries.id < %(before_id)s)"
        " ORDER BY webhook_deliveries.id DESC LIMIT %(limit)s",
        {"endpoint_id": endpoint_id, "status": status, "before_id": before_id, "limit": limit},
    ).fetchall()


def load_attempts(connection: PgConnection, *, delivery_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The newest SHOWN_ATTEMPTS of each delivery, in their order."""
    rows = connection.execute(
        "SELECT a.* FROM webhook_attempts a JOIN webhook_deliveries d ON d.id = a.delivery_id"
        " WHERE a.delivery_id = ANY(%s) AND a.no > d.attempts - %s ORDER BY a.delivery_id, a.no",
        (list(delivery_ids), SHOWN_ATTEMPTS),
    )
    found: dict[str, list[Row]] = {delivery_id: [] for delivery_id in delivery_ids}
    for row in rows:
        found[row["delivery_id"]].append(row)
    return found


def delete_old(connection: PgConnection, *, before: datetime, limit: int) -> int:
    """Delete messages that came before then, with their deliveries; how many."""
    return connection.execute(
        "DELETE FROM webhook_messages WHERE id IN (SELECT id FROM webhook_messages WHERE received_at < %s"
        " ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED)",
        (before, limit),
    ).rowcount
