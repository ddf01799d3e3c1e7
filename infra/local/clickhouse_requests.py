"""One HTTP request in ClickHouse's protocol, read into what the engine needs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from itertools import chain

from infra.local import clickhouse_statements as statements
from infra.local.clickhouse_bodies import Body, BodyError
from infra.local.clickhouse_engine import Session

MAX_STATEMENT_BYTES = 16 * 1024 * 1024

BAD_ARGUMENTS = 36
TOO_LARGE_QUERY = 62  # ClickHouse says "Syntax error: Max query size exceeded" under this code
NOT_IMPLEMENTED = 48

BOUND = "param_"
#: What the protocol itself reads from the URL; everything else there is a setting of the query.
OWN_PARAMETERS = frozenset(
    {"query", "database", "default_format", "query_id", "session_id", "session_timeout", "session_check"}
    | {"user", "password", "client_protocol_version", "compress", "decompress", "wait_end_of_query", "buffer_size"}
    | {"enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "quota_key"}
    | {"cancel_http_readonly_queries_on_client_close", "role", "stacktrace", "close_session"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A statement that is complete in itself."""

    sql: str
    session: Session
    parameters: Mapping[str, str]
    format: str
    apart: bool  # it changes its session
    reads: bool  # it can only return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """An INSERT whose data comes in `pieces`, read from the connection as they are taken."""

    statement: str
    session: Session
    format: str
    pieces: Iterator[bytes]


def read(parameters: Mapping[str, str], headers: Message, body: Body) -> Query | Insertion:
    """The request of these URL parameters, headers and body. Raises BodyError when it can't be read."""
    pieces = body.pieces()
    if (headers.get_content_type() or "") == "multipart/form-data":
        parameters = {**parameters, **_form_fields(_take_all(pieces), headers)}
        pieces = iter(())
    session = _session(parameters, headers)
    head = parameters.get("query", "").encode()
    insert = statements.parse_insert(head) if head else None
    if insert is None:
        head = b"\n".join(filter(None, (head, _take(pieces, statements.MAX_HEAD_BYTES))))
        insert = statements.parse_insert(head)
    if insert:
        data = chain(filter(None, (head[insert.data_at :],)), pieces)
        return Insertion(statement=insert.statement, session=session, format=insert.format, pieces=data)
    text = head + _take_all(pieces)
    sql = _decode(text)
    return Query(
        sql=sql,
        session=session,
        parameters={name[len(BOUND) :]: value for name, value in parameters.items() if name.startswith(BOUND)},
        format=statements.output_format(sql) or parameters.get("default_format", "TabSeparated"),
        apart=statements.leaves_traces(text),
        reads=statements.only_reads(text),
    )


def _session(parameters: Mapping[str, str], headers: Message) -> Session:
    database = parameters.get("database") or headers.get("X-ClickHouse-Database") or "default"
    settings = (item for item in parameters.items() if item[0] not in OWN_PARAMETERS and not item[0].startswith(BOUND))
    return database, tuple(sorted(settings))


def _form_fields(body: bytes, headers: Message) -> dict[str, str]:
    """The fields of a multipart form: clients send long bound parameters so."""
    form = message_from_bytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body, policy=HTTP)
    fields: dict[str, str] = {}
    for part in form.iter_parts():  # pyright: ignore[reportAttributeAccessIssue]
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None and not str(name).startswith(BOUND) and name != "query":
            raise BodyError(NOT_IMPLEMENTED, "External tables are not served here; pass the values as a bound array")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)  # a part of a form is never a message of its own
        fields[str(name)] = _decode(payload)
    return fields


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise BodyError(BAD_ARGUMENTS, f"The statement is not UTF-8: {error}") from error


def _take_all(pieces: Iterator[bytes]) -> bytes:
    taken = _take(pieces, MAX_STATEMENT_BYTES + 1)
    if len(taken) > MAX_STATEMENT_BYTES:
        raise BodyError(TOO_LARGE_QUERY, f"Max query size exceeded: the statement passes {MAX_STATEMENT_BYTES} bytes")
    return taken


def _take(pieces: Iterator[bytes], limit_bytes: int) -> bytes:
    """Pieces until `limit_bytes` are there or nothing is left; the last piece is whole."""
    taken: list[bytes] = []
    size = 0
    while size < limit_bytes and (piece := next(pieces, b"")):
        taken.append(piece)
        size += len(piece)
    return b"".join(taken)
