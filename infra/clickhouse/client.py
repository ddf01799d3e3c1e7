"""Connections to ClickHouse. One client is safe for the threads of one process: it keeps no session."""

from collections.abc import Iterable
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

__all__ = ["ClickHouseError", "Client", "connect", "numbers", "took_too_long"]

CONNECT_TIMEOUT_SECONDS = 5
RECEIVE_TIMEOUT_SECONDS = 60
ANSWER_SLACK_SECONDS = 2  # that the server has to say itself that a query took too long
TIMEOUT_EXCEEDED = 159  # ClickHouse's code of that


def connect(url: str, *, answer_seconds: int | None = None, slack_seconds: int = ANSWER_SLACK_SECONDS) -> Client:
    """A client for `http://user:password@host:port/database`; the database is made when it does not exist.

    With `answer_seconds` the server gives a query up after that time (see `took_too_long`), and one that hangs is left
    `slack_seconds` later.

    Raises ClickHouseError when nothing answers.
    """
    parts = urlsplit(url)

    def client(database: str) -> Client:
        return clickhouse_connect.get_client(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            username=parts.username or "default",
            password=parts.password or "",
            secure=parts.scheme == "https",
            database=database,
            connect_timeout=min(CONNECT_TIMEOUT_SECONDS, answer_seconds or CONNECT_TIMEOUT_SECONDS),
            send_receive_timeout=(
                RECEIVE_TIMEOUT_SECONDS if answer_seconds is None else answer_seconds + slack_seconds
            ),
            settings={} if answer_seconds is None else {"max_execution_time": answer_seconds},
            autogenerate_session_id=False,
        )

    database = parts.path.strip("/") or "meterline"
    bootstrap = client("default")
    bootstrap.command("CREATE DATABASE IF NOT EXISTS {database:Identifier}", parameters={"database": database})
    bootstrap.close()
    return client(database)


def numbers(values: Iterable[int]) -> str:
    """Whole numbers for a parameter that is an Array. As a list the driver would look at each of them several times."""
    return str(list(values))


def took_too_long(error: ClickHouseError) -> bool:
    """Whether the server is well and gave a query up because its time was over: it asked for too much."""
    return getattr(error, "code", None) == TIMEOUT_EXCEEDED or f"Code: {TIMEOUT_EXCEEDED}." in str(error)
