"""Errors on the wire: RFC 9457 problem documents with stable, dotted codes.

Every error that a client can cause is a MeterlineError of the tree in `schemas/errors.py`; its class gives the status.
Anything else is a 500 `internal` whose trace stands in the log beside the `request_id`, never in the answer.
"""

from typing import Any, cast

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from infra.clickhouse.client import ClickHouseError, took_too_long
from schemas import errors
from schemas.errors import FieldError, MeterlineError, Reject, Retry

CONTENT_TYPE = "application/problem+json"
MAX_FIELD_ERRORS = 100  # of one answer
MAX_DETAIL_LENGTH = 1_000  # characters; a detail may quote what was sent

TOO_SLOW = (
    "The answer would take longer than a request may. Ask for less: one customer, a shorter range, or fewer groups."
)
TOO_SLOW_SECONDS = 30

UNKNOWN_FIELD = "request.unknown_field"
MISSING_FIELD = "request.missing_field"
INVALID_FIELD = "request.invalid_field"

VARIANT = "variant:"  # of one body's tag where several are taken; it is no place in the body

_STATUS: list[tuple[type[MeterlineError], int, str]] = [
    (errors.Malformed, 400, "The request can't be read"),
    (errors.Unauthenticated, 401, "No valid API key"),
    (errors.Forbidden, 403, "The key's role does not reach this far"),
    (errors.NotFound, 404, "Not found"),
    (errors.TimedOut, 408, "The request took too long to come"),
    (errors.Conflict, 409, "Conflict with the present state"),
    (errors.TooLarge, 413, "Too large"),
    (errors.UnsupportedMediaType, 415, "Unsupported media type"),
    (errors.Reject, 422, "The request is not valid"),
    (errors.Retry, 503, "Not available right now"),
]
_TITLES = {status: title for _, status, title in _STATUS} | {
    405: "Method not allowed",
    429: "Too many requests",
    500: "Internal error",
}

_log = structlog.get_logger("meterline.api")


def status_of(error: MeterlineError) -> int:
    """The HTTP status of an error; 500 for those that no client can cause."""
    return next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)


def problem(error: MeterlineError, *, instance: str, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error's answer. For raw routes; handlers just raise."""
    status = status_of(error)
    headers = {"content-type": CONTENT_TYPE, "x-request-id": request_id}
    if isinstance(error, Retry):
        headers["retry-after"] = str(error.retry_after_seconds)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return status, headers, _encode(status, error.code, error.detail, error.errors, instance, request_id)


def _encode(
    status: int, code: str, detail: str, fields: tuple[FieldError, ...], instance: str, request_id: str
) -> bytes:
    return msgspec.json.encode(
        {
            "type": f"urn:meterline:problem:{code}",
            "title": _TITLES.get(status, "Error"),
            "status": status,
            "detail": detail[:MAX_DETAIL_LENGTH],
            "instance": instance,
            "code": code,
            "request_id": request_id,
            "errors": [
                {"pointer": field.pointer, "code": field.code, "detail": field.detail[:MAX_DETAIL_LENGTH]}
                for field in fields[:MAX_FIELD_ERRORS]
            ],
        }
    )


def request_id_of(request: Request) -> str:
    """The request's id, given by the client or made at the door."""
    return getattr(request.state, "request_id", "")


def respond(request: Request, error: MeterlineError) -> Response:
    """The problem document of an error."""
    status, headers, body = problem(error, instance=request.url.path, request_id=request_id_of(request))
    return Response(body, status, headers)


def escape_pointer(part: str | int) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")


def pointer(*parts: str | int) -> str:
    """A JSON pointer: `pointer("prices", 0)` → `/prices/0`."""
    return "".join("/" + escape_pointer(part) for part in parts)


def to_reject(validation: RequestValidationError) -> Reject:
    """FastAPI's validation errors as one Reject. Its code is that of an unknown field, else a missing one, else the
    first."""
    fields = tuple(_field_error(entry) for entry in cast("list[dict[str, Any]]", list(validation.errors())))
    codes = {field.code for field in fields}
    code = next((code for code in (UNKNOWN_FIELD, MISSING_FIELD) if code in codes), fields[0].code)
    first = next(field for field in fields if field.code == code)
    return Reject(code, f"{first.pointer or 'body'}: {first.detail}", errors=fields)


def _field_error(entry: dict[str, Any]) -> FieldError:
    _, *location = entry["loc"]  # body, query, path or header
    location = [part for part in location if not str(part).startswith(VARIANT) and part != "[key]"]
    match entry["type"]:
        case "extra_forbidden":
            code, detail = UNKNOWN_FIELD, "There is no such field here."
        case "missing":
            code, detail = MISSING_FIELD, "This field is required."
        case kind if "." in kind:  # a code of our own, raised by a field's validator
            code, detail = kind, str(entry["msg"])
        case _:
            message = str(entry["msg"]).removeprefix("Value error, ")
            code, detail = INVALID_FIELD, message.replace(" after validation", "")
    return FieldError(pointer=pointer(*location), code=code, detail=detail)


async def _on_meterline_error(request: Request, error: Exception) -> Response:
    return respond(request, cast("MeterlineError", error))


async def _on_clickhouse_error(request: Request, error: Exception) -> Response:
    return respond(request, from_clickhouse(request, error))


def from_clickhouse(request: Request, error: Exception) -> Retry:
    """A ClickHouse that is away, or too busy, is no fault of the request's; the log has what it said."""
    if isinstance(error, ClickHouseError) and took_too_long(error):
        _log.warning("a query took too long", request_id=request_id_of(request), path=request.url.path)
        return Retry("store.too_slow", TOO_SLOW, retry_after_seconds=TOO_SLOW_SECONDS)
    _log.error("clickhouse failed", request_id=request_id_of(request), path=request.url.path, exc_info=error)
    return Retry("store.unavailable", "ClickHouse does not answer.", retry_after_seconds=2)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    return respond(request, to_reject(cast("RequestValidationError", error)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a wrong method."""
    http = cast("HTTPException", error)
    if http.status_code == 404:
        return respond(request, errors.NotFound("request.not_found", f"There is no {request.url.path} here."))
    code, detail = "request.refused", str(http.detail)
    if http.status_code == 405:
        code, detail = "request.method_not_allowed", f"{request.method} is not for {request.url.path}."
    request_id = request_id_of(request)
    body = _encode(http.status_code, code, detail, (), request.url.path, request_id)
    headers = {**(http.headers or {}), "content-type": CONTENT_TYPE}
    return Response(body, http.status_code, headers)


def internal_problem(instance: str, request_id: str) -> bytes:
    """The body of a 500: it says nothing but where to look."""
    return _encode(
        500, "internal", "Something went wrong here; the log has it by request_id.", (), instance, request_id
    )


def install(app: FastAPI) -> None:
    """Answer every error of this app with a problem document."""
    app.add_exception_handler(MeterlineError, _on_meterline_error)
    app.add_exception_handler(ClickHouseError, _on_clickhouse_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
