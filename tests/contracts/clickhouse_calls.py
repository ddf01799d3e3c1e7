"""Calls of the server under contract, below `clickhouse-connect`: what goes over the wire, and what comes back."""

# ruff: noqa: S608 - the names in the statements are made here

import http.client
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.client import HTTPMessage
from io import BytesIO
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
from clickhouse_connect.driver.client import Client

ROWS_OF_MANY_BLOCKS = 200_000  # more than three blocks of 65,536
SYNC = {"async_insert": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: HTTPMessage
    text: str

    @property
    def code(self) -> str | None:
        return self.headers["X-ClickHouse-Exception-Code"]


@contextmanager
def connection_to(url: str) -> Iterator[tuple[http.client.HTTPConnection, dict[str, str]]]:
    """A plain HTTP connection and the headers that log in."""
    parts = urlsplit(url)
    assert parts.hostname
    login = b64encode(f"{parts.username or 'default'}:{parts.password or ''}".encode()).decode()
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 8123, timeout=30)
    try:
        yield connection, {"Authorization": f"Basic {login}"}
    finally:
        connection.close()


def send(
    url: str, query: str, body: bytes | Iterator[bytes], headers: dict[str, str] | None = None, **settings: object
) -> Answer:
    """One request without the client library. A body of pieces is sent in chunks."""
    parameters = {"database": urlsplit(url).path.strip("/"), "query": query, **settings}
    with connection_to(url) as (connection, login):
        path = "/?" + urlencode(parameters)
        connection.request("POST", path, body, login | (headers or {}), encode_chunked=not isinstance(body, bytes))
        response = connection.getresponse()
        return Answer(status=response.status, headers=response.headers, text=response.read().decode())


def post(
    url: str, query: str, body: bytes | Iterator[bytes], headers: dict[str, str] | None = None, **settings: object
) -> Answer:
    """The answer to a request that must succeed."""
    answer = send(url, query, body, headers, **settings)
    assert answer.status == 200, answer.text
    return answer


def arrow_stream(start: int, rows: int, batch_rows: int) -> bytes:
    batch = pa.table(
        {
            "id": pa.array(range(start, start + rows), pa.uint64()),
            "name": pa.array([f"n{number % 7}" for number in range(rows)]),
            "amount": pa.array([Decimal("0.000000000001")] * rows, pa.decimal128(38, 12)),
        }
    )
    sink = BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch, max_chunksize=batch_rows)
    return sink.getvalue()


def count(client: Client, table: str) -> int:
    return int(client.query(f"SELECT count() FROM {table}").result_rows[0][0])
