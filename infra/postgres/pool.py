"""Connections to PostgreSQL. Everything in Meterline speaks to it synchronously: routes in the thread pool, flows and
activities in their own threads. A transaction belongs to the caller; functions beside this file take a connection."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from infra.postgres import jsonb
from schemas.errors import Retry

Row = dict[str, Any]
PgConnection = psycopg.Connection[Row]
PostgresError = psycopg.Error

jsonb.install()

CONNECT_TIMEOUT_SECONDS = 5
POOL_WAIT_SECONDS = 5
STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000  # a stopped process must not hold its row locks for ever

OPTIONS = (
    f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} "
    f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS} -c timezone=UTC"
)


def check_connection(connection: PgConnection) -> None:
    """Raise if the server went away while the connection lay in the pool."""
    connection.execute("")


def connect(dsn: str) -> PgConnection:
    """One connection of the caller's own; commits and rollbacks are the caller's (`with connection.transaction()`)."""
    return PgConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, connect_timeout=CONNECT_TIMEOUT_SECONDS, options=OPTIONS
    )


class Database:
    """A pool of connections. Unreachable PostgreSQL is a `Retry`, which the API answers as 503."""

    def __init__(self, dsn: str, *, max_connections: int = 16) -> None:
        self._pool = ConnectionPool(
            dsn,
            connection_class=PgConnection,
            min_size=1,
            max_size=max_connections,
            timeout=POOL_WAIT_SECONDS,
            open=True,
            check=check_connection,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "options": OPTIONS,
            },
        )

    @contextmanager
    def transaction(self) -> Generator[PgConnection]:
        """A connection inside a transaction: committed when the block ends, rolled back when it raises."""
        try:
            with self._pool.connection() as connection, connection.transaction():
                yield connection
        except (PoolTimeout, psycopg.OperationalError) as error:
            raise Retry("store.unavailable", f"PostgreSQL does not answer: {error}", retry_after_seconds=2) from error

    def close(self) -> None:
        self._pool.close()
