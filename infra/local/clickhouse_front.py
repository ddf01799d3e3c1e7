"""ClickHouse's HTTP protocol in front of the chDB engine, so that several processes share one store.

It speaks what `clickhouse-connect` speaks: queries and inserts in any format, compressed bodies, bound parameters,
settings, errors with ClickHouse's code and text. Users and passwords are not looked at: it listens on loopback only.
Run as `python -m infra.local.clickhouse_front DATA_DIR PORT DATABASE`.
"""

import json
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from infra.local import clickhouse_statements as statements
from infra.local.clickhouse_bodies import BodyError, plain_pieces
from infra.local.clickhouse_engine import Engine, EngineError, Result, Session
from infra.local.ports import LOOPBACK

MAX_URL_BYTES = 1024 * 1024  # http_max_uri_size of a real server
MAX_STATEMENT_BYTES = 16 * 1024 * 1024
MAX_REQUESTS_AT_ONCE = 64
WAIT_FOR_TURN_SECONDS = 10
IDLE_SECONDS = 300  # a silent connection is closed after this

TOO_MANY_QUERIES = 202
#: What the protocol reads from the URL itself; everything else there is a setting of the query.
OWN_PARAMETERS = frozenset(
    {"query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check"}
    | {"user", "password", "client_protocol_version", "compress", "decompress", "wait_end_of_query", "buffer_size"}
    | {"enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "quota_key"}
    | {"cancel_http_readonly_queries_on_client_close", "role", "stacktrace", "close_session"}
)


class Front(ThreadingHTTPServer):
    """The server; one thread a connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, engine: Engine, port: int, database: str) -> None:
        self.engine = engine
        self.database = database
        self.turns = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        super().__init__((LOOPBACK, port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error; all else goes to the log."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class Handler(BaseHTTPRequestHandler):
    """One connection of one client."""

    protocol_version = "HTTP/1.1"
    server_version = "Meterline"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # 21 queries a second without it
    wbufsize = -1  # head and body of an answer leave together
    server: Front  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        """As in the standard library, with a longer first line: bound parameters travel in the URL."""
        self.raw_requestline = self.rfile.readline(MAX_URL_BYTES + 1)
        if len(self.raw_requestline) > MAX_URL_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
            return
        if not self.raw_requestline:
            self.close_connection = True
            return
        if not self.parse_request():
            return
        self._answer()
        self.wfile.flush()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/ping":
            self._send(200, b"Ok.\n")
            return
        if parts.path != "/" or self.command not in {"GET", "POST"}:
            self._send(404, b"There is no handle here; queries go to /.\n")
            return
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        if not self.server.turns.acquire(timeout=WAIT_FOR_TURN_SECONDS):
            self.close_connection = True
            self._send_error(TOO_MANY_QUERIES, "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)")
            return
        try:
            result, output_format = self._run(parameters)
        except EngineError as error:
            self.close_connection = True  # a part of the body may be unread
            self._send(500, f"{error.text}\n".encode(), {"X-ClickHouse-Exception-Code": str(error.code)})
        except BodyError as error:
            self.close_connection = True
            self._send_error(error.code, str(error))
        else:
            self._send(200, result.body, _result_headers(result, output_format, parameters))
        finally:
            self.server.turns.release()

    def _run(self, parameters: Mapping[str, str]) -> tuple[Result, str]:
        pieces = plain_pieces(self.rfile, self.headers)
        head = parameters.get("query", "").encode()
        session = self._session(parameters)
        insert = statements.parse_insert(head) if head else None
        rest = b""
        if insert is None:
            head = b"\n".join(filter(None, (head, _take(pieces, statements.MAX_HEAD_BYTES))))
            insert = statements.parse_insert(head)
            rest = head[insert.data_at :] if insert else b""
        if insert:
            data = _chain(rest, pieces)
            return self.server.engine.insert(insert.statement, insert.format, session, data), "TabSeparated"
        text = b"".join((head, _take(pieces, MAX_STATEMENT_BYTES)))
        if next(pieces, b""):
            raise BodyError(TOO_MANY_QUERIES, f"The statement is longer than {MAX_STATEMENT_BYTES} bytes")
        sql = text.decode()
        output_format = statements.output_format(sql) or parameters.get("default_format", "TabSeparated")
        bound = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
        run = self.server.engine.run_apart if statements.leaves_traces(text) else self.server.engine.query
        return run(sql, output_format, session, bound), output_format

    def _session(self, parameters: Mapping[str, str]) -> Session:
        database = parameters.get("database") or self.headers.get("X-ClickHouse-Database") or "default"
        settings = tuple(
            sorted(
                (name, value)
                for name, value in parameters.items()
                if name not in OWN_PARAMETERS and not name.startswith("param_")
            )
        )
        return database, settings

    def _send_error(self, code: int, text: str) -> None:
        headers = {"X-ClickHouse-Exception-Code": str(code)}
        self._send(500, f"Code: {code}. DB::Exception: {text}\n".encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _result_headers(result: Result, output_format: str, parameters: Mapping[str, str]) -> dict[str, str]:
    counted = {
        "read_rows": result.read_rows,
        "read_bytes": result.read_bytes,
        "written_rows": result.written_rows,
        "written_bytes": result.written_bytes,
        "total_rows_to_read": 0,
        "result_rows": result.written_rows,
        "result_bytes": len(result.body),
    }
    return {
        "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in counted.items()}),
        "X-ClickHouse-Query-Id": parameters.get("query_id") or str(uuid.uuid4()),
        "X-ClickHouse-Format": output_format,
        "X-ClickHouse-Timezone": "UTC",
        "Content-Type": "text/plain; charset=UTF-8",
    }


def _take(pieces: Iterator[bytes], limit_bytes: int) -> bytes:
    """Pieces until `limit_bytes` are there or nothing is left; the last piece is whole."""
    taken: list[bytes] = []
    size = 0
    while size < limit_bytes and (piece := next(pieces, b"")):
        taken.append(piece)
        size += len(piece)
    return b"".join(taken)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def main() -> None:
    """Serve until SIGTERM, then let running requests end and close the engine."""
    home, port, database = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    engine = Engine(home)
    engine.query(f"CREATE DATABASE IF NOT EXISTS {database}", "Null", ("default", ()), {})
    front = Front(engine, port, database)
    signal.signal(signal.SIGTERM, lambda _number, _frame: threading.Thread(target=front.shutdown).start())
    front.serve_forever()
    front.socket.shutdown(socket.SHUT_RDWR)
    for _ in range(MAX_REQUESTS_AT_ONCE):  # each turn that can be had is a request that is not running
        front.turns.acquire(timeout=WAIT_FOR_TURN_SECONDS)
    engine.close()


if __name__ == "__main__":
    main()
