"""Errors in OFREP's own form: `{"key", "errorCode", "errorDetails"}` instead of a problem document.

An OpenFeature provider falls back to its caller's default on each of them. 400: the request; 404: no such flag; the
rest has the status that every other route answers with. `code` is our own stable code.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Literal, NotRequired

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.client import ClickHouseError
from ingestion_api.answers import encode
from ingestion_api.problems import from_clickhouse, request_id_of, status_of, to_reject
from ingestion_api.routing import HouseRoute
from schemas.errors import Malformed, MeterlineError, NotFound, Reject, Retry

ErrorCode = Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "FLAG_NOT_FOUND", "GENERAL"]

CONTEXT_POINTERS = frozenset({"", "/context", "/context/targetingKey"})  # where a missing key shows


class FailureView(TypedDict):
    """Why nothing was evaluated. `key`: of the one flag that was asked for."""

    key: NotRequired[str]
    errorCode: ErrorCode
    errorDetails: str
    code: str
    request_id: str


#: For OpenAPI: the same form for every status.
FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": FailureView, "description": text}
    for status, text in {
        400: "The request can't be evaluated.",
        401: "No key, or one that opens nothing.",
        403: "The key's role does not reach this far.",
        404: "There is no such flag.",
        408: "The body did not come in its time.",
        413: "Larger than a limit.",
        503: "Not available right now; try again after `Retry-After` seconds.",
    }.items()
}


class OfrepRoute(HouseRoute):
    """A route of the house whose errors are OFREP's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as invalid:
                return _respond(request, to_reject(invalid))
            except ClickHouseError as error:
                return _respond(request, from_clickhouse(request, error))
            except MeterlineError as error:
                return _respond(request, error)

        return handle


def _respond(request: Request, error: MeterlineError) -> Response:
    status = 400 if isinstance(error, Reject) else status_of(error)
    failure: FailureView = {
        "errorCode": _code_of(error),
        "errorDetails": error.detail,
        "code": error.code,
        "request_id": request_id_of(request),
    }
    if "key" in request.path_params:
        failure["key"] = request.path_params["key"]
    headers = {"retry-after": str(error.retry_after_seconds)} if isinstance(error, Retry) else None
    return Response(encode(failure), status, headers, media_type="application/json")


def _code_of(error: MeterlineError) -> ErrorCode:
    match error:
        case Malformed():
            return "PARSE_ERROR"
        case NotFound():
            return "FLAG_NOT_FOUND"
        case Reject(errors=fields) if any(field.pointer in CONTEXT_POINTERS for field in fields):
            missing = all(field.code == "request.missing_field" or not field.pointer for field in fields)
            return "TARGETING_KEY_MISSING" if missing else "INVALID_CONTEXT"
        case Reject():
            return "INVALID_CONTEXT"
        case _:
            return "GENERAL"
