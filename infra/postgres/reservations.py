"""Reservations: what was taken of a limit before it is used, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.postgres.holds import Hold, HoldKey, add_to_holds, end_due, lock_holds
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.money import exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReservation:
    """One that is held from now on."""

    id: str
    key: HoldKey
    quantity: Decimal
    expires_at: datetime
    metadata: dict[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """A counted event that names a reservation."""

    reservation_id: str
    customer_no: int
    source: str
    event_id: str
    received_at: datetime


def insert_reservations(connection: PgConnection, *, tenant_id: str, new: Sequence[NewReservation]) -> None:
    """Store them as held. The caller has locked their keys, and adds them to what is held."""
    connection.execute(
        "INSERT INTO reservations (id, tenant_id, customer_id, feature_id, quantity, expires_at, metadata, created_at)"
        " SELECT n.id, %s, n.customer_id, n.feature_id, n.quantity, n.expires_at, n.metadata, n.created_at"
        " FROM jsonb_to_recordset(%s) AS n (id text, customer_id text, feature_id text, quantity numeric,"
        " expires_at timestamptz, metadata jsonb, created_at timestamptz)",  # one text costs less than seven arrays
        (
            tenant_id,
            jsonb(
                [
                    {
                        "id": each.id,
                        "customer_id": each.key.customer_id,
                        "feature_id": each.key.feature_id,
                        "quantity": each.quantity,
                        "expires_at": each.expires_at,
                        "metadata": each.metadata,
                        "created_at": each.created_at,
                    }
                    for each in new
                ]
            ),
        ),
    )


def load_reservation(connection: PgConnection, *, tenant_id: str, reservation_id: str) -> Row | None:
    """A reservation, with the customer's external_id as `customer` and the feature's key as `feature`."""
    return connection.execute(
        "SELECT r.*, c.external_id AS customer, f.key AS feature FROM reservations r"
        " JOIN customers c ON c.id = r.customer_id JOIN features f ON f.id = r.feature_id"
        " WHERE r.tenant_id = %s AND r.id = %s",
        (tenant_id, reservation_id),
    ).fetchone()


def lock_reservation(connection: PgConnection, *, tenant_id: str, reservation_id: str) -> Row | None:
    """The same, and nobody else changes it before we commit."""
    row = load_reservation(connection, tenant_id=tenant_id, reservation_id=reservation_id)
    if row is None:
        return None
    lock_holds(connection, [HoldKey(row["customer_id"], row["feature_id"])])
    return load_reservation(connection, tenant_id=tenant_id, reservation_id=reservation_id)


def record_commit(
    connection: PgConnection, *, reservation_id: str, source: str, event_id: str, held_until: datetime
) -> None:
    """A commit of a held reservation begins, with this event: it is held at least until then."""
    connection.execute(
        "UPDATE reservations SET commit_source = %s, commit_event_id = %s, expires_at = greatest(expires_at, %s)"
        " WHERE id = %s",
        (source, event_id, held_until, reservation_id),
    )


def mark_committed(connection: PgConnection, *, reservation_id: str, now: datetime) -> None:
    """A held reservation is held until all that was acknowledged before `now` is counted, and expires no more."""
    connection.execute(
        "UPDATE reservations SET state = 'committed', committed_at = %s WHERE id = %s", (now, reservation_id)
    )


def release(connection: PgConnection, *, reservation: Row, now: datetime) -> list[Hold]:
    """Give back what a locked reservation holds."""
    connection.execute(
        "UPDATE reservations SET state = 'released', ended_at = %s WHERE id = %s", (now, reservation["id"])
    )
    key = HoldKey(reservation["customer_id"], reservation["feature_id"])
    return add_to_holds(connection, {key: -reservation["quantity"]})


@exactly
def settle(connection: PgConnection, *, events: Sequence[Settling], now: datetime) -> list[Hold]:
    """Each event that names a reservation of its own customer ends it, if it is still held; one that came after the
    expiry does not. The holds that have changed. Whatever else an event names, it changes nothing."""
    first = {(event.reservation_id, event.customer_no): event for event in reversed(events)}
    keys = _keys_of(connection, list(first.values()))
    if not keys:
        return []
    lock_holds(connection, keys)
    settled = connection.execute(
        "UPDATE reservations r SET state = 'settled', ended_at = %s, settled_source = e.source,"
        " settled_event_id = e.event_id"
        " FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[])"
        "  AS e (id, customer_no, source, event_id, received_at) JOIN customers c ON c.no = e.customer_no"
        " WHERE r.id = e.id AND r.customer_id = c.id"
        " AND (r.state = 'committed' OR r.state = 'held' AND e.received_at < r.expires_at)"
        " RETURNING r.customer_id, r.feature_id, r.quantity",
        (now, *_columns(list(first.values()))),
    ).fetchall()
    given_back: dict[HoldKey, Decimal] = {}
    for row in settled:
        key = HoldKey(row["customer_id"], row["feature_id"])
        given_back[key] = given_back.get(key, Decimal(0)) - row["quantity"]
    return add_to_holds(connection, given_back)


def _keys_of(connection: PgConnection, events: Sequence[Settling]) -> list[HoldKey]:
    """What the reservations hold that these events may settle."""
    rows = connection.execute(
        "SELECT DISTINCT r.customer_id, r.feature_id"
        " FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::timestamptz[])"
        "  AS e (id, customer_no, source, event_id, received_at)"
        " JOIN reservations r ON r.id = e.id JOIN customers c ON c.no = e.customer_no AND c.id = r.customer_id"
        " WHERE r.state IN ('held', 'committed')",
        _columns(events),
    )
    return [HoldKey(row["customer_id"], row["feature_id"]) for row in rows]


def _columns(
    events: Sequence[Settling],
) -> tuple[list[str], list[int], list[str], list[str], list[datetime]]:
    return (
        [event.reservation_id for event in events],
        [event.customer_no for event in events],
        [event.source for event in events],
        [event.event_id for event in events],
        [event.received_at for event in events],
    )


def sweep(connection: PgConnection, *, before_id: str, now: datetime, as_of: datetime | None, limit: int) -> int:
    """Forget up to `limit` reservations with ids below `before_id`, having ended those that nobody has; how many."""
    old = connection.execute(
        "SELECT id, customer_id, feature_id, state FROM reservations WHERE id < %s ORDER BY id LIMIT %s",
        (before_id, limit),
    ).fetchall()
    keys = {HoldKey(row["customer_id"], row["feature_id"]) for row in old if row["state"] in ("held", "committed")}
    if keys:
        locked = list(lock_holds(connection, sorted(keys)))
        end_due(connection, locked, now=now, as_of=as_of, limit=limit)
    return connection.execute(
        "DELETE FROM reservations WHERE id = ANY(%s) AND state NOT IN ('held', 'committed')",
        ([row["id"] for row in old],),
    ).rowcount
