"""Reading for a copy of entitlements in memory: all of them in pages, and what has changed since by notification."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import sql
from psycopg.rows import tuple_row

from infra.postgres.counters import CounterRow, counter_row
from infra.postgres.entitlements import TERMS
from infra.postgres.pool import PgConnection, Row
from schemas.meters import Aggregation

CHANNEL = "entitlement_changes"
PAGE_SIZE = 5_000


class Changed(StrEnum):
    """What a notification names."""

    CUSTOMER = "c"
    FEATURE = "f"
    METER = "m"
    FENCE = "x"  # of a process, see `tell_fence`


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Entitlements as tuples, whose places `columns` names: those of `infra.postgres.entitlements`."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def listen(connection: PgConnection) -> None:
    """Be told of changes from now on."""
    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))


def next_changes(connection: PgConnection, *, wait: timedelta) -> list[tuple[Changed, str]]:
    """What was committed next, in order; waits so long for a first one."""
    told = [notify.payload.partition(" ") for notify in connection.notifies(timeout=wait.total_seconds(), stop_after=1)]
    return [(Changed(kind), name) for kind, _, name in told]


def tell_fence(connection: PgConnection, token: str) -> None:
    """Let whoever listens see the token once the caller's transaction has committed, after what that changed."""
    connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{Changed.FENCE} {token}"))


def customers_after(connection: PgConnection, *, after_id: str, limit: int) -> list[str]:
    """The next customers, of all tenants, who are entitled to anything."""
    rows = connection.execute(
        "SELECT id FROM customers WHERE id > %s AND EXISTS (SELECT FROM entitlements WHERE customer_id = customers.id)"
        " ORDER BY id LIMIT %s",
        (after_id, limit),
    )
    return [row["id"] for row in rows]


def terms_of(connection: PgConnection, customer_ids: Sequence[str], *, paid_for: bool = False) -> Terms:
    """All entitlements of these customers; `paid_for`: and of those for whom they pay."""
    condition = " WHERE c.id = ANY(%(ids)s)"
    if paid_for:
        condition += " OR c.parent_id = ANY(%(ids)s)"
    return _terms(connection, condition, {"ids": list(customer_ids)})


def _terms(connection: PgConnection, condition: LiteralString, parameters: Any) -> Terms:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(TERMS + condition, parameters)
        assert cursor.description is not None
        return Terms(columns=tuple(column.name for column in cursor.description), rows=cursor.fetchall())


def load_features(connection: PgConnection, *, feature_ids: Sequence[str] | None) -> list[Row]:
    """id, tenant_id, key, type, on_unknown and meter_no of these features (None: of all)."""
    return connection.execute(
        "SELECT f.id, f.tenant_id, f.key, f.type, f.on_unknown, m.no AS meter_no"
        " FROM features f LEFT JOIN meters m ON m.id = f.meter_id WHERE %(ids)s::text[] IS NULL OR f.id = ANY(%(ids)s)",
        {"ids": None if feature_ids is None else list(feature_ids)},
    ).fetchall()


def load_revisions(connection: PgConnection, *, meter_nos: Sequence[int] | None) -> dict[int, tuple[int, Aggregation]]:
    """By meter, the revision that readers use, and its aggregation."""
    rows = connection.execute(
        "SELECT no, revision, aggregation FROM meters WHERE %(nos)s::integer[] IS NULL OR no = ANY(%(nos)s)",
        {"nos": None if meter_nos is None else list(meter_nos)},
    )
    return {row["no"]: (row["revision"], Aggregation(row["aggregation"])) for row in rows}


def counter_rows(connection: PgConnection, *, shard: int) -> Generator[tuple[CounterRow, int, int]]:
    """All counters of a shard, each with how many shards there were when it was seeded, and its version. In a
    transaction."""
    with connection.cursor(name="counter_rows") as cursor:
        cursor.itersize = PAGE_SIZE
        cursor.execute(
            "SELECT entitlement_no, period_start, meter_revision, used, events, rank, is_stale, shards, version"
            " FROM entitlement_counters WHERE shard = %s",
            (shard,),
        )
        for row in cursor:
            yield counter_row(row), row["shards"], row["version"]


def live_holds(connection: PgConnection, *, now: datetime) -> Generator[tuple[str, str, datetime]]:
    """Customer and feature of which something is reserved at `now`, and until when that surely is so: the last expiry,
    or `now` for what waits to be counted. In a transaction."""
    with connection.cursor(name="live_holds", row_factory=tuple_row) as cursor:
        cursor.itersize = PAGE_SIZE
        cursor.execute(
            "SELECT customer_id, feature_id, greatest(max(expires_at), %(now)s) FROM reservations"
            " WHERE state = 'committed' OR state = 'held' AND (expires_at > %(now)s OR commit_event_id IS NOT NULL)"
            " GROUP BY customer_id, feature_id",
            {"now": now},
        )
        yield from cursor


def counted_until(connection: PgConnection, *, topic: str, shard: int) -> dict[int, datetime]:
    """By partition of the shard, until when its counters are complete. A partition without events has none."""
    rows = connection.execute(
        "SELECT partition, counted_until FROM shard_offsets"
        " WHERE topic = %s AND shard = %s AND isfinite(counted_until)",
        (topic, shard),
    )
    return {row["partition"]: row["counted_until"] for row in rows}
