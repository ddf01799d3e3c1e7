"""ClickHouse's HTTP protocol in front of the chDB engine, so that several processes share one store.

It speaks what `clickhouse-connect` speaks: queries and inserts in any format, compressed bodies, bound parameters,
settings, errors with ClickHouse's code and text. Not spoken: sessions, external tables, compressed answers (it listens
on loopback only). Run as `python -m infra.local.clickhouse_front DATA_DIR PORT DATABASE PASSWORD_FILE`.
"""

import base64
import binascii
import hmac
import json
import secrets
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from infra.local import clickhouse_requests as requests
from infra.local.clickhouse_bodies import Body, BodyError
from infra.local.clickhouse_engine import Engine, EngineError, Result
from infra.local.clickhouse_requests import Insertion, Query
from infra.local.ports import LOOPBACK

MAX_URL_BYTES = 1024 * 1024  # as a real server's http_max_uri_size
MAX_REQUESTS_AT_ONCE = 64
WAIT_FOR_TURN_SECONDS = 10
STOP_LIMIT_SECONDS = 8  # what still runs then is cut off, as by a kill: nothing half of it is acknowledged
IDLE_SECONDS = 300  # a silent connection is closed after this

TOO_MANY_QUERIES = 202
AUTHENTICATION_FAILED = 516


class Front(ThreadingHTTPServer):
    """The server; one thread a connection."""

    daemon_threads = True
    block_on_close = False  # idle connections would hold up the end; running requests are waited for by their turns
    request_queue_size = 256

    def __init__(self, engine: Engine, port: int, password: str) -> None:
        self.engine = engine
        self.password = password.encode()
        self.turns = threading.BoundedSemaphore(MAX_REQUESTS_AT_ONCE)
        super().__init__((LOOPBACK, port), Handler)

    def wait_until_quiet(self, limit_seconds: float) -> bool:
        """Take every turn, so that no request runs; False when some still run after `limit_seconds`."""
        deadline = time.monotonic() + limit_seconds
        return all(
            self.turns.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in range(MAX_REQUESTS_AT_ONCE)
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error; all else goes to the log."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class Handler(BaseHTTPRequestHandler):
    """One connection of one client."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # 21 queries a second without it
    wbufsize = -1  # head and body of an answer leave together
    server: Front  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_one_request(self) -> None:
        """As in the standard library, but with a longer first line: bound parameters travel in the URL."""
        self.raw_requestline = self.rfile.readline(MAX_URL_BYTES + 1)
        if len(self.raw_requestline) > MAX_URL_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(414)
        elif not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._answer()
            self.wfile.flush()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        body = Body(self.rfile, self.headers)  # pyright: ignore[reportArgumentType]
        if parts.path == "/ping":
            self._send(200, b"Ok.\n")
        elif parts.path != "/" or self.command not in {"GET", "POST"}:
            self._refuse(body, 404, 0, "There is nothing here; queries go to /")
        else:
            self._serve(dict(parse_qsl(parts.query, keep_blank_values=True)), body)

    def _serve(self, parameters: Mapping[str, str], body: Body) -> None:
        """Run one request in its turn."""
        if not self._is_let_in(parameters):
            text = "Authentication failed: wrong password. (AUTHENTICATION_FAILED)"
            self._refuse(body, 403, AUTHENTICATION_FAILED, text)
            return
        if not self.server.turns.acquire(timeout=WAIT_FOR_TURN_SECONDS):
            text = "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            self._refuse(body, 500, TOO_MANY_QUERIES, text)
            return
        try:
            self._run(parameters, body)
        except EngineError as error:
            self._refuse(body, 500, error.code, error.text)
        except BodyError as error:
            self._refuse(body, 400, error.code, str(error))
        finally:
            self.server.turns.release()

    def _is_let_in(self, parameters: Mapping[str, str]) -> bool:
        """Whether the password is ours, wherever ClickHouse's clients may put it. The user's name says nothing here."""
        given = parameters.get("password") or self.headers.get("X-ClickHouse-Key") or ""
        scheme, _, basic = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(basic).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        return hmac.compare_digest(given.encode(), self.server.password)

    def _run(self, parameters: Mapping[str, str], body: Body) -> None:
        engine = self.server.engine
        request = requests.read(parameters, self.headers, body)
        query_id = parameters.get("query_id") or str(uuid.uuid4())
        match request:
            case Insertion():
                result = engine.insert(request.statement, request.format, request.session, request.pieces)
                self._send(200, b"", _headers(result, request.format, query_id))
            case Query(reads=True, apart=False):
                with engine.stream(request.sql, request.format, request.session, request.parameters) as pieces:
                    self._send_pieces(pieces, _headers(Result(b""), request.format, query_id))
            case Query():
                run = engine.run_apart if request.apart else engine.query
                result = run(request.sql, request.format, request.session, request.parameters)
                self._send(200, result.body, _headers(result, request.format, query_id))

    def _send_pieces(self, pieces: Iterator[bytes], headers: Mapping[str, str]) -> None:
        """One piece goes out with its length. More go out in chunks; an error after the first is written into the
        stream between marks that the head has announced, as ClickHouse does, and the connection breaks off."""
        first, second = next(pieces, b""), next(pieces, b"")
        if not second:
            self._send(200, first, headers)
            return
        tag = secrets.token_hex(8)
        self._send_head(200, {**headers, "Transfer-Encoding": "chunked", "X-ClickHouse-Exception-Tag": tag})
        try:
            for piece in chain((first, second), pieces):
                self._send_chunk(piece)
        except EngineError as error:
            self.close_connection = True
            text = error.text.encode()
            mark = tag.encode()
            self._send_chunk(
                b"\r\n__exception__\r\n%b\r\n%b\n%d %b\r\n__exception__\r\n" % (mark, text, len(text) + 1, mark)
            )
        self._send_chunk(b"")

    def _send_chunk(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _refuse(self, body: Body, status: int, code: int, text: str) -> None:
        """Answer with an error in ClickHouse's form, when the client has said all it has to say."""
        self.close_connection |= not body.drain()
        text = text if text.startswith("Code: ") else f"Code: {code}. DB::Exception: {text}"
        self._send(status, f"{text}\n".encode(), {"X-ClickHouse-Exception-Code": str(code)})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._send_head(status, {**(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _headers(result: Result, format_name: str, query_id: str) -> dict[str, str]:
    counted = {
        "read_rows": result.read_rows,
        "read_bytes": result.read_bytes,
        "written_rows": result.written_rows,
        "written_bytes": result.written_bytes,
    }
    return {
        "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in counted.items()}),
        "X-ClickHouse-Query-Id": query_id,
        "X-ClickHouse-Format": format_name,
        "X-ClickHouse-Timezone": "UTC",
        "Content-Type": "text/plain; charset=UTF-8",
    }


def main() -> None:
    """Serve until SIGTERM, then let running requests end and close the engine."""
    home, port, database, password_file = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    engine = Engine(home)
    engine.query(f"CREATE DATABASE IF NOT EXISTS {database}", "Null", ("default", ()), {})
    front = Front(engine, port, password_file.read_text(encoding="ascii"))
    signal.signal(signal.SIGTERM, lambda _number, _frame: threading.Thread(target=front.shutdown).start())
    front.serve_forever()
    front.server_close()
    if front.wait_until_quiet(STOP_LIMIT_SECONDS):
        engine.close()


if __name__ == "__main__":
    main()
