"""Which checks were made when, and what stands broken."""

from datetime import datetime

from infra.postgres.pool import PgConnection


def load_begun(connection: PgConnection) -> dict[str, datetime]:
    """By kind, `recent` and `full`, when the last check that came to its end had begun. A full one is recent, too."""
    return {row["kind"]: row["begun_at"] for row in connection.execute("SELECT kind, begun_at FROM invariant_checks")}


def save_ended(connection: PgConnection, *, is_full: bool, begun_at: datetime, now: datetime) -> None:
    connection.execute(
        "INSERT INTO invariant_checks (kind, begun_at, ended_at) SELECT kind, %(begun_at)s, %(now)s"
        " FROM unnest(%(kinds)s::text[]) AS kind ON CONFLICT (kind) DO UPDATE"
        " SET begun_at = excluded.begun_at, ended_at = excluded.ended_at",
        {"kinds": ["recent", "full"] if is_full else ["recent"], "begun_at": begun_at, "now": now},
    )


def count_standing(connection: PgConnection) -> dict[str, int]:
    """By rule, how many objects break it as far as checks know."""
    rows = connection.execute("SELECT rule, count(*) AS objects FROM invariant_breaches GROUP BY rule ORDER BY rule")
    return {row["rule"]: row["objects"] for row in rows}


def is_migrated(connection: PgConnection) -> bool:
    """Whether the store has the tables of checks; one that no service has opened yet has none."""
    row = connection.execute("SELECT to_regclass('invariant_checks') IS NOT NULL AS made").fetchone()
    assert row is not None
    return row["made"]
