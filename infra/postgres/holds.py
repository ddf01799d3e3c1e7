"""What is held of a customer's feature by reservations. Every change of a reservation's state happens under the lock of
its row here, and all who lock several lock them in the order of their keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import LiteralString, NamedTuple

from infra.postgres.pool import PgConnection


class HoldKey(NamedTuple):
    """Whose feature."""

    customer_id: str
    feature_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A row as it is now. `version` grows with every change."""

    key: HoldKey
    reserved: Decimal
    version: int


#: Sent as they are (`b`): quoting hundreds of names into a text costs more than their rows do.
_KEYS: LiteralString = "unnest(%(customers)b::text[], %(features)b::text[]) AS k (customer_id, feature_id)"

#: Nobody knows whether the event of a commit that was begun has reached the log: it would be counted by then.
_EXPIRED: LiteralString = (
    "r.state = 'held' AND r.expires_at <= %(now)s"
    " AND (r.commit_event_id IS NULL OR r.expires_at < %(as_of)s::timestamptz)"
)
_COUNTED: LiteralString = "r.state = 'committed' AND r.committed_at < %(as_of)s::timestamptz"


def ensure_holds(connection: PgConnection, *, tenant_id: str, keys: Sequence[HoldKey]) -> None:
    """Make rows that are not there. In a transaction of its own: a row made by somebody who has not committed yet can't
    be locked in the order of the keys."""
    connection.execute(
        "INSERT INTO entitlement_holds (tenant_id, customer_id, feature_id)"  # noqa: S608 - texts of this file
        " SELECT %(tenant_id)s, k.customer_id, k.feature_id FROM " + _KEYS + " ORDER BY 2, 3 ON CONFLICT DO NOTHING",
        {"tenant_id": tenant_id, **_columns(keys)},
    )


def lock_holds(connection: PgConnection, keys: Sequence[HoldKey]) -> dict[HoldKey, Hold]:
    """Those of the rows that are there, as they are once nobody else changes them until we commit."""
    rows = connection.execute(
        "SELECT h.customer_id, h.feature_id, h.reserved, h.version FROM entitlement_holds h JOIN "  # noqa: S608 - texts of this file
        + _KEYS
        + " ON h.customer_id = k.customer_id AND h.feature_id = k.feature_id"
        " ORDER BY h.customer_id, h.feature_id FOR UPDATE OF h",
        _columns(keys),
    )
    found = [
        Hold(key=HoldKey(r["customer_id"], r["feature_id"]), reserved=r["reserved"], version=r["version"]) for r in rows
    ]
    return {hold.key: hold for hold in found}


def load_reserved(
    connection: PgConnection, keys: Sequence[HoldKey], *, now: datetime, as_of: datetime | None
) -> dict[HoldKey, Decimal]:
    """What is held at `now`; a key without anything is absent.

    What has expired counts no more, whether or not it was written down, nor do committed reservations when all that was
    acknowledged before their commit is counted: `as_of` says up to when that is so. What a commit was begun of expires
    when `as_of` has passed that, too. Read it before `used`, or all three in one snapshot.
    """
    if not keys:
        return {}
    rows = connection.execute(
        "SELECT h.customer_id, h.feature_id, h.reserved"  # noqa: S608 - texts of this file
        " - coalesce((SELECT sum(r.quantity) FROM reservations r WHERE r.customer_id = h.customer_id"
        "  AND r.feature_id = h.feature_id AND " + _EXPIRED + "), 0)"
        " - coalesce((SELECT sum(r.quantity) FROM reservations r WHERE r.customer_id = h.customer_id"
        "  AND r.feature_id = h.feature_id AND " + _COUNTED + "), 0)"
        " AS reserved FROM entitlement_holds h JOIN "
        + _KEYS
        + " ON h.customer_id = k.customer_id AND h.feature_id = k.feature_id WHERE h.reserved > 0",
        {"now": now, "as_of": as_of, **_columns(keys)},
    )
    return {HoldKey(row["customer_id"], row["feature_id"]): row["reserved"] for row in rows if row["reserved"]}


def end_due(
    connection: PgConnection, keys: Sequence[HoldKey], *, now: datetime, as_of: datetime | None, limit: int
) -> int:
    """Write down the end of up to `limit` reservations of each kind that hold no more at `now` (see `load_reserved`) of
    keys that the caller has locked; how many."""
    if not keys:
        return 0
    row = connection.execute(
        "WITH due AS ("  # noqa: S608 - texts of this file
        " SELECT e.id FROM " + _KEYS + " CROSS JOIN LATERAL (SELECT r.id FROM reservations r"
        "  WHERE r.customer_id = k.customer_id AND r.feature_id = k.feature_id AND " + _EXPIRED + ""
        "  ORDER BY r.expires_at LIMIT %(limit)s) e"
        " UNION ALL"
        " SELECT s.id FROM " + _KEYS + " CROSS JOIN LATERAL (SELECT r.id FROM reservations r"
        "  WHERE r.customer_id = k.customer_id AND r.feature_id = k.feature_id AND " + _COUNTED + ""
        "  ORDER BY r.committed_at LIMIT %(limit)s) s"
        " LIMIT %(limit)s"
        "), ended AS (UPDATE reservations r SET state = CASE r.state WHEN 'held' THEN 'expired' ELSE 'settled' END,"
        "  ended_at = CASE r.state WHEN 'held' THEN r.expires_at ELSE %(now)s END"
        "  WHERE r.id IN (SELECT id FROM due) RETURNING r.customer_id, r.feature_id, r.quantity"
        "), given_back AS (UPDATE entitlement_holds h SET reserved = h.reserved - e.quantity, version = h.version + 1"
        "  FROM (SELECT customer_id, feature_id, sum(quantity) AS quantity FROM ended GROUP BY 1, 2) e"
        "  WHERE h.customer_id = e.customer_id AND h.feature_id = e.feature_id"
        ") SELECT count(*) AS ended FROM ended",
        {"now": now, "as_of": as_of, "limit": limit, **_columns(keys)},
    ).fetchone()
    assert row is not None
    return row["ended"]


def add_to_holds(connection: PgConnection, changes: Mapping[HoldKey, Decimal]) -> list[Hold]:
    """Hold so much more, or less, of each of these keys, which the caller has locked; the rows as they are then."""
    if not changes:
        return []
    rows = connection.execute(
        "UPDATE entitlement_holds h SET reserved = h.reserved + c.quantity, version = h.version + 1"
        " FROM unnest(%b::text[], %b::text[], %b::numeric[]) AS c (customer_id, feature_id, quantity)"
        " WHERE h.customer_id = c.customer_id AND h.feature_id = c.feature_id"
        " RETURNING h.customer_id, h.feature_id, h.reserved, h.version",
        (
            [key.customer_id for key in changes],
            [key.feature_id for key in changes],
            list(changes.values()),
        ),
    )
    return [
        Hold(key=HoldKey(row["customer_id"], row["feature_id"]), reserved=row["reserved"], version=row["version"])
        for row in rows
    ]


def _columns(keys: Sequence[HoldKey]) -> dict[str, list[str]]:
    return {"customers": [key.customer_id for key in keys], "features": [key.feature_id for key in keys]}
