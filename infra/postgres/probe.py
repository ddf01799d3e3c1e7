"""Asks a PostgreSQL server a real question."""

import psycopg


def probe(address: str, timeout_seconds: float) -> str:
    """The server's version, e.g. `18.6`. `address` is a DSN. Raises psycopg.Error when it does not answer in time."""
    with psycopg.connect(address, connect_timeout=max(2, int(timeout_seconds)), autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0])
