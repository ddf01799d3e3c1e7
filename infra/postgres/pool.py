"""Connections to PostgreSQL. Everything in Meterline speaks to it synchronously: routes in the thread pool, flows and
activities in their own threads. A transaction belongs to the caller; functions beside this file take a connection."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from infra.postgres import jsonb
from schemas.errors import Retry

Row = dict[str, Any]
PgConnection = psycopg.Connection[Row]
PostgresError = psycopg.Error
Answer = TypeVar("Answer")

jsonb.install()

CONNECT_TIMEOUT_SECONDS = 5
POOL_WAIT_SECONDS = 5
CHECK_SECONDS = 2  # for an answer to nothing
GRACE_SECONDS = 1  # for the server's word that it has cancelled a statement
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


def plan_once(connection: PgConnection) -> None:
    """Let statements of this transaction be planned once a connection, not again for other sizes of their arrays. For
    those that find all rows by keys: there is one good plan."""
    connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")


class ImpatientConnection(PgConnection):
    """Waits at most `answer_seconds` for each answer; later the connection is closed and OperationalError raised.

    A server that hangs, or whose machine does, keeps its connections open and answers nothing: its own timeouts don't
    help then.
    """

    answer_seconds: int = STATEMENT_TIMEOUT_MS // 1000

    def wait(self, gen: PQGen[Answer], *args: Any, **options: Any) -> Answer:
        try:
            return super().wait(gen, *args, **{"timeout": self.answer_seconds, **options})
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # it may still answer, to nobody
                self.pgconn.finish()
            raise


def connect_impatient(dsn: str) -> PgConnection:
    """As `connect`, for one that is kept long and looked at by `check_soon`: a server that hangs is found out."""
    return ImpatientConnection.connect(
        dsn, autocommit=True, row_factory=dict_row, connect_timeout=CHECK_SECONDS, options=OPTIONS
    )


def check_soon(connection: PgConnection) -> None:
    """`check_connection`, without waiting long for a server that hangs."""
    assert isinstance(connection, ImpatientConnection)
    patience, connection.answer_seconds = connection.answer_seconds, CHECK_SECONDS
    check_connection(connection)
    connection.answer_seconds = patience


class Database:
    """A pool of connections. Unreachable PostgreSQL is a `Retry`, which the API answers as 503.

    With `answer_seconds` no statement takes longer, and a server that hangs is given up soon after.
    """

    def __init__(self, dsn: str, *, max_connections: int = 16, answer_seconds: int | None = None) -> None:
        options = OPTIONS
        connection_class, check = PgConnection, check_connection
        if answer_seconds is not None:
            options += f" -c statement_timeout={answer_seconds}s"
            connection_class = type(
                "_Connection", (ImpatientConnection,), {"answer_seconds": answer_seconds + GRACE_SECONDS}
            )
            check = check_soon
        self._pool = ConnectionPool(
            dsn,
            connection_class=connection_class,
            min_size=1,
            max_size=max_connections,
            timeout=POOL_WAIT_SECONDS,
            open=True,
            check=check,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "options": options,
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

    @contextmanager
    def snapshot(self) -> Generator[PgConnection]:
        """The same for reading alone: all statements see the one state of the first of them."""
        with self.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield connection

    def close(self) -> None:
        self._pool.close()
