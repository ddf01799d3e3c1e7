"""Asks a PostgreSQL server a real question."""

from datetime import datetime

import psycopg
from psycopg.rows import dict_row

from infra.postgres.pool import PgConnection
from infra.postgres.shards import counters_as_of, usage_as_of


def probe(address: str, timeout_seconds: float) -> str:
    """The server's version, e.g. `18.6`. `address` is a DSN. Raises psycopg.Error when it does not answer in time."""
    with psycopg.connect(address, connect_timeout=max(2, int(timeout_seconds)), autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0])


def complete_until(address: str, timeout_seconds: float, *, topic: str, partitions: int) -> datetime | None:
    """Up to when both windows and counters are complete; None while a partition has never been counted.

    Raises psycopg.Error when the server does not answer in time, or has no tables yet.
    """
    limit = max(2, int(timeout_seconds))
    with PgConnection.connect(
        address,
        connect_timeout=limit,
        autocommit=True,
        row_factory=dict_row,
        options=f"-c statement_timeout={limit * 1000} -c timezone=UTC",
    ) as connection:
        counted = counters_as_of(connection, topic=topic, partitions=partitions)
        stored = usage_as_of(connection, topic=topic, partitions=partitions)
    return None if counted is None or stored is None else min(counted, stored)
