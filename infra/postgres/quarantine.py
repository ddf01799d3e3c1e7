"""How many events a shard has quarantined of late, and the word to their tenants: written in a batch's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent


class Recent(NamedTuple):
    """Events that a shard has judged of late, and how many of them are quarantined."""

    events: int
    quarantined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineNotice:
    """`count` events of one tenant that a batch has quarantined for the same reason; `events` names the first few."""

    tenant_no: int
    code: str
    count: int
    events: list[dict[str, str]]


def load_recent(connection: PgConnection, *, shard: int) -> Recent:
    """The counts as the shard's last batch has left them."""
    row = connection.execute(
        "SELECT recent_events AS events, recent_quarantined AS quarantined FROM shards WHERE shard = %s", (shard,)
    ).fetchone()
    assert row is not None, "the shard is claimed before it is read"
    return Recent(**row)


def save_recent(connection: PgConnection, *, shard: int, recent: Recent) -> None:
    """The counts with a batch that this transaction commits."""
    connection.execute(
        "UPDATE shards SET recent_events = %s, recent_quarantined = %s WHERE shard = %s", (*recent, shard)
    )


def append_notices(connection: PgConnection, *, notices: Sequence[QuarantineNotice], now: datetime) -> None:
    """Write the system events `event.quarantined`, one a notice. A tenant that does not exist can't be told."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO outbox (id, tenant_id, type, object_id, data, created_at)"
            " SELECT %s, t.id, %s, t.id, %s, %s FROM tenants t WHERE t.no = %s",
            [
                (
                    new_id(Prefix.SYSTEM_EVENT),
                    SystemEvent.EVENT_QUARANTINED,
                    jsonb({"code": notice.code, "count": notice.count, "events": notice.events}),
                    now,
                    notice.tenant_no,
                )
                for notice in notices
            ],
        )
