"""Test clocks: what they show, and how far an advance has come. Their customers' time is theirs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row

_WORKING: LiteralString = "SELECT id, tenant_id, now, advance_to, catalogue_version, replayed_at FROM test_clocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A clock as the workers see it. `replayed_at`: what was sent before it is on the log as the advance makes it
    count; None while that is not so."""

    id: str
    tenant_id: str
    now: datetime
    advance_to: datetime | None  # None: it is ready
    catalogue_version: int
    replayed_at: datetime | None

    @property
    def until(self) -> datetime:
        """Everything due up to here is to be done."""
        return self.advance_to or self.now


def insert_clock(
    connection: PgConnection,
    *,
    clock_id: str,
    tenant_id: str,
    name: str,
    shows: datetime,
    metadata: dict[str, str],
    now: datetime,
) -> Row:
    """Store a new clock that shows `shows`."""
    row = connection.execute(
        "INSERT INTO test_clocks (id, tenant_id, name, now, status, metadata, created_at)"
        " VALUES (%s, %s, %s, %s, 'ready', %s, %s) RETURNING *",
        (clock_id, tenant_id, name, shows, jsonb(metadata), now),
    ).fetchone()
    assert row is not None
    return row


def load_clock(connection: PgConnection, *, tenant_id: str, clock_id: str, lock: bool = False) -> Row | None:
    """The tenant's clock. With `lock` nobody moves it before we commit."""
    query = "SELECT * FROM test_clocks WHERE tenant_id = %s AND id = %s"
    return connection.execute(query + " FOR NO KEY UPDATE" if lock else query, (tenant_id, clock_id)).fetchone()


def list_clocks(connection: PgConnection, *, tenant_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The tenant's clocks, newest first."""
    return connection.execute(
        "SELECT * FROM test_clocks WHERE tenant_id = %(tenant_id)s"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"tenant_id": tenant_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def count_customers(connection: PgConnection, *, clock_id: str) -> int:
    """How many customers live by the clock."""
    row = connection.execute("SELECT count(*) AS n FROM customers WHERE test_clock_id = %s", (clock_id,)).fetchone()
    assert row is not None
    return row["n"]


def number_of(connection: PgConnection, clock_id: str | None) -> int:
    """The number of the clock in the catalogue; 0 for none."""
    if clock_id is None:
        return 0
    row = connection.execute("SELECT no FROM test_clocks WHERE id = %s", (clock_id,)).fetchone()
    assert row is not None, "customers name clocks that exist, and none is ever removed"
    return row["no"]


def load_nows(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """What each of the clocks shows."""
    rows = connection.execute("SELECT id, now FROM test_clocks WHERE id = ANY(%s)", (list(clock_ids),))
    return {row["id"]: row["now"] for row in rows}


def load_customer_clocks(connection: PgConnection, customer_ids: Collection[str]) -> dict[str, str]:
    """The test clock of each of these customers that has one."""
    rows = connection.execute(
        "SELECT id, test_clock_id FROM customers WHERE id = ANY(%s) AND test_clock_id IS NOT NULL",
        (list(customer_ids),),
    )
    return {row["id"]: row["test_clock_id"] for row in rows}


def hold_clock(connection: PgConnection, clock_id: str) -> datetime:
    """What the clock shows; it stands still until the caller's transaction ends."""
    row = connection.execute("SELECT now FROM test_clocks WHERE id = %s FOR SHARE", (clock_id,)).fetchone()
    assert row is not None, "customers name clocks that exist, and none is ever removed"
    return row["now"]


def begin_advance(
    connection: PgConnection, *, clock_id: str, to: datetime, catalogue_version: int, now: datetime
) -> Row:
    """Let a ready clock advance; the caller has its row locked. `now` is the real instant."""
    row = connection.execute(
        "UPDATE test_clocks SET status = 'advancing', advance_to = %s, advance_requested_at = %s,"
        " catalogue_version = %s, replayed_at = NULL WHERE id = %s RETURNING *",
        (to, now, catalogue_version, clock_id),
    ).fetchone()
    assert row is not None
    return row


def load_working(connection: PgConnection, clock_id: str) -> Clock | None:
    """The clock as the workers see it."""
    row = connection.execute(_WORKING + " WHERE id = %s", (clock_id,)).fetchone()
    return None if row is None else Clock(**row)


def is_replayed(connection: PgConnection, *, version: int) -> bool:
    """Whether all that became countable by this version of the catalogue is on the log."""
    row = connection.execute("SELECT replayed_version >= %s AS replayed FROM catalogue_head", (version,)).fetchone()
    assert row is not None
    return row["replayed"]


def record_replayed(connection: PgConnection, *, clock: Clock, now: datetime) -> None:
    """Keep the real instant from which on the usage of this advance is complete."""
    connection.execute(
        "UPDATE test_clocks SET replayed_at = %s WHERE id = %s AND advance_to = %s AND replayed_at IS NULL",
        (now, clock.id, clock.advance_to),
    )


def move(connection: PgConnection, *, clock: Clock, to: datetime) -> bool:
    """Let an advancing clock show a later instant; false if it is no longer as it was read."""
    moved = connection.execute(
        "UPDATE test_clocks SET now = %s WHERE id = %s AND now = %s AND advance_to = %s",
        (to, clock.id, clock.now, clock.advance_to),
    )
    return moved.rowcount == 1


def finish_advance(connection: PgConnection, *, clock: Clock) -> Row | None:
    """Let the clock show what it was asked to show, and be ready; None if it is no longer as it was read."""
    return connection.execute(
        "UPDATE test_clocks SET now = advance_to, status = 'ready', advance_to = NULL"
        " WHERE id = %s AND now = %s AND advance_to = %s RETURNING *",
        (clock.id, clock.now, clock.advance_to),
    ).fetchone()


def load_advancing(connection: PgConnection, *, limit: int) -> list[Clock]:
    """Clocks that advance, the first ones asked first."""
    rows = connection.execute(
        _WORKING + " WHERE status = 'advancing' ORDER BY advance_requested_at, id LIMIT %s", (limit,)
    )
    return [Clock(**row) for row in rows]


def load_ready(connection: PgConnection, *, after_id: str, limit: int) -> dict[str, Clock]:
    """Ready clocks that have customers, by id and in its order, from beyond `after_id` on."""
    rows = connection.execute(
        _WORKING + " WHERE status = 'ready' AND id > %s"
        " AND EXISTS (SELECT FROM customers WHERE test_clock_id = test_clocks.id) ORDER BY id LIMIT %s",
        (after_id, limit),
    )
    return {row["id"]: Clock(**row) for row in rows}
