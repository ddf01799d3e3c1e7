"""The one ClickHouse engine of a process, used by many threads.

chDB runs queries of different connections in parallel and keeps settings and the current database per connection. So
each request borrows a connection that has exactly its database and settings, and nobody sees another's.
"""

import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from chdb.state.sqlitelike import Connection, StreamingResult, connect

MAX_IDLE_CONNECTIONS = 64
MEMORY_SHARE = 0.3  # of the machine's: the engine shares a laptop with all the rest
MERGE_THREAD = b"MergeMutate"
MERGE_NICENESS = 5  # more than the process has: a third of the weight of its other threads
ARROW_CONTINUATION = b"\xff\xff\xff\xff"
ARROW_END = ARROW_CONTINUATION + b"\0\0\0\0"

#: Formats whose pieces make one valid answer when they are put together.
_JOINABLE_FORMATS = frozenset(
    {"Native", "ArrowStream", "RowBinary", "JSONEachRow", "JSONCompactEachRow", "TabSeparated"}
)

_CODE = re.compile(r"Code: (\d+)\. ")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")

UNKNOWN_SETTING = 115


class EngineError(Exception):
    """An error with ClickHouse's own code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Result:
    """The bytes of a result in its format, and what ClickHouse counted."""

    body: bytes
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0


Session = tuple[str, tuple[tuple[str, str], ...]]


class Engine:
    """The engine with its data in `home`. Safe for threads; close it before the process ends."""

    def __init__(self, home: Path) -> None:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._url = f"{home}?max_server_memory_usage={int(memory_bytes * MEMORY_SHARE)}"
        self._lock = threading.Lock()
        self._idle: dict[Session, list[Connection]] = {}
        self._idle_count = 0
        self._merges_yield = False
        self._anchor = connect(self._url)  # the engine lives as long as one connection does

    def query(self, sql: str, output_format: str, session: Session, parameters: Mapping[str, str]) -> Result:
        """Run one statement. Raises EngineError."""
        with self._borrow(session) as connection, _engine_errors():
            result = connection.query(sql, output_format, params=dict(parameters))
            return Result(
                result.bytes(),
                result.storage_rows_read(),
                result.storage_bytes_read(),
                result.rows_written(),
                result.bytes_written(),
            )

    @contextmanager
    def stream(
        self, sql: str, output_format: str, session: Session, parameters: Mapping[str, str]
    ) -> Generator[Iterator[bytes]]:
        """The result of a SELECT in pieces, so that a large one is never whole in memory.

        Formats with a head or a foot that may stand only once come in one piece. Raises EngineError, also between two
        pieces; leaving the block early cancels the query.
        """
        if output_format not in _JOINABLE_FORMATS:
            yield iter((self.query(sql, output_format, session, parameters).body,))
            return
        with (
            self._borrow(session) as connection,
            _engine_errors(),
            connection.send_query(sql, output_format, params=dict(parameters)) as rows,
        ):
            pieces = _pieces(rows)
            if output_format == "ArrowStream":
                first = next(pieces, b"")
                pieces = _one_arrow_stream(chain((first,), pieces)) if first else None
            if pieces is not None:
                yield pieces
                return
        # No row makes no piece, but an Arrow stream has a schema even so.
        yield iter((self.query(sql, output_format, session, parameters).body,))

    def insert(self, statement: str, input_format: str, session: Session, pieces: Iterable[bytes]) -> Result:
        """Run an INSERT whose data comes in pieces of any size; nothing after a failed piece is stored.

        Raises EngineError, and what `pieces` raises: then the insert is cancelled.
        """
        with self._borrow(session) as connection, _engine_errors():
            with connection.send_insert(statement, input_format) as inserter:
                for piece in pieces:
                    inserter.append(piece)
                done = inserter.finish()
            if not self._merges_yield:  # the threads are there since the first table was
                self._merges_yield = True
                _let_merges_yield()
            return Result(b"", written_rows=done.rows_written, written_bytes=done.bytes_written)

    def run_apart(self, sql: str, output_format: str, session: Session, parameters: Mapping[str, str]) -> Result:
        """Run a statement that changes its session, in a connection that nobody gets after it."""
        connection = self._open(session)
        try:
            with _engine_errors():
                return Result(connection.query(sql, output_format, params=dict(parameters)).bytes())
        finally:
            connection.close()

    def close(self) -> None:
        """Close all idle connections and the engine with them. No request may be under way."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()
        self._anchor.close()

    @contextmanager
    def _borrow(self, session: Session) -> Generator[Connection]:
        connection = self._take_idle(session) or self._open(session)
        try:
            yield connection
        except BaseException:
            connection.close()  # whatever state the failure left goes with it
            raise
        self._keep_idle(session, connection)

    def _take_idle(self, session: Session) -> Connection | None:
        with self._lock:
            idle = self._idle.pop(session, [])
            connection = idle.pop() if idle else None
            if connection is not None:
                self._idle_count -= 1
            if idle:
                self._idle[session] = idle  # at the end: the sessions stand in the order of their last use
            return connection

    def _keep_idle(self, session: Session, connection: Connection) -> None:
        """Beyond MAX_IDLE_CONNECTIONS the one whose session was unused for longest goes: a session with a setting of
        one request alone, such as a deduplication token, never comes again and must not hold a place."""
        evicted: Connection | None = None
        with self._lock:
            self._idle[session] = [*self._idle.pop(session, []), connection]
            self._idle_count += 1
            if self._idle_count > MAX_IDLE_CONNECTIONS:
                oldest = next(iter(self._idle))
                evicted = self._idle[oldest].pop()
                self._idle_count -= 1
                if not self._idle[oldest]:
                    del self._idle[oldest]
        if evicted is not None:
            evicted.close()

    def _open(self, session: Session) -> Connection:
        database, settings = session
        connection = connect(self._url)
        try:
            with _engine_errors():
                connection.query(f"USE {_identifier(database)}", "Null")
                if settings:
                    connection.query("SET " + ", ".join(_assignment(*setting) for setting in settings), "Null")
        except BaseException:
            connection.close()
            raise
        return connection


def _let_merges_yield() -> None:
    """Give merges less of a busy processor than inserts and queries, for which somebody waits. On Linux alone; chDB
    does nothing with ClickHouse's own setting for it."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0) + MERGE_NICENESS
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # a thread that has ended since
            if (task / "comm").read_bytes().strip() == MERGE_THREAD:
                os.setpriority(os.PRIO_PROCESS, int(task.name), niceness)


@contextmanager
def _engine_errors() -> Generator[None]:
    """chDB raises RuntimeErrors whose text holds ClickHouse's; pass on code and text alone."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        found = _CODE.search(text)
        if found is None:
            raise EngineError(1002, f"Code: 1002. DB::Exception: {text} (UNKNOWN_EXCEPTION)") from error
        raise EngineError(int(found.group(1)), text[found.start() :]) from error


def _pieces(rows: StreamingResult) -> Iterator[bytes]:
    with _engine_errors():
        for piece in rows:
            yield piece.bytes()


def _one_arrow_stream(streams: Iterator[bytes]) -> Iterator[bytes]:
    """Each piece of chDB is an Arrow stream of its own: keep the schema of the first and the end of the last."""
    schema_bytes = 0
    for stream in streams:
        if not schema_bytes:
            schema_bytes = len(ARROW_CONTINUATION) + 4 + int.from_bytes(stream[4:8], "little")
            yield stream[: -len(ARROW_END)]
        else:
            yield stream[schema_bytes : -len(ARROW_END)]
    yield ARROW_END


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _assignment(name: str, value: str) -> str:
    if not _NAME.fullmatch(name):
        raise EngineError(UNKNOWN_SETTING, f"Code: 115. DB::Exception: Unknown setting {name!r}. (UNKNOWN_SETTING)")
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name} = '{quoted}'"
