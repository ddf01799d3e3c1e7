"""The outbox: a change of state and the event that tells of it are one transaction."""

from datetime import datetime
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent

RELAY_LOCK = 0x4D45_4F42  # "MEOB"


def append(
    connection: PgConnection, *, tenant_id: str, event: SystemEvent, object_id: str, data: dict[str, Any], now: datetime
) -> None:
    """Write one system event beside the change it tells of; the relay publishes it after the commit."""
    connection.execute(
        "INSERT INTO outbox (id, tenant_id, type, object_id, data, created_at) VALUES (%s, %s, %s, %s, %s, %s)",
        (new_id(Prefix.SYSTEM_EVENT), tenant_id, event, object_id, jsonb(data), now),
    )


def become_relay(connection: PgConnection) -> bool:
    """Whether this session is now the one relay; it stays so until its connection ends. Two would mix up the order."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s) AS held", (RELAY_LOCK,)).fetchone()
    assert row is not None
    return row["held"]


def take(connection: PgConnection, *, limit: int) -> list[Row]:
    """The oldest rows, locked until the caller's transaction ends; rows that another relay holds are passed by."""
    return connection.execute(
        "SELECT no, id, tenant_id, type, object_id, data, created_at FROM outbox"
        " ORDER BY no LIMIT %s FOR UPDATE SKIP LOCKED",
        (limit,),
    ).fetchall()


def remove(connection: PgConnection, numbers: list[int]) -> None:
    """Rows that the broker has acknowledged. A crash before this publishes them again under the same id."""
    connection.execute("DELETE FROM outbox WHERE no = ANY(%s)", (numbers,))
