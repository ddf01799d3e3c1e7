"""The house's kind of route: the key is looked at first, then the body is read with a limit and without floats.

A body is JSON whatever its content type says. Its numbers keep every digit (Decimal), its texts are storable.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from functools import cached_property
from typing import Any, cast, get_origin

import msgspec
from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.responses import Response

from ingestion_api.auth import authenticate
from ingestion_api.ingest.body import BODY_SECONDS, timed_out
from ingestion_api.problems import INVALID_FIELD, UNKNOWN_FIELD, pointer
from schemas.errors import FieldError, Malformed, NotFound, Reject, TooLarge

MAX_BODY_BYTES = 1024 * 1024
MAX_JSON_DEPTH = 32
UNKNOWN_PARAMETER = "request.unknown_parameter"
REPEATED_PARAMETER = "request.repeated_parameter"
FILTERED_PATH = "/v1/usage"  # it takes `filter[name]` for any group of the meter, and checks the names itself
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_decoder = msgspec.json.Decoder(float_hook=Decimal)


class _Loaded(Request):
    """A request whose body has been read and decoded."""

    def __init__(self, request: Request, body: bytes, decoded: Any) -> None:
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
        super().__init__({**request.scope, "headers": [*headers, (b"content-type", b"application/json")]})
        self._loaded_body = body
        self._decoded = decoded

    async def body(self) -> bytes:
        return self._loaded_body

    async def json(self) -> Any:
        return self._decoded


class HouseRoute(APIRoute):
    """Use it for every router of ours: `APIRouter(route_class=HouseRoute)`, or just `house_router()`."""

    @cached_property
    def parameters(self) -> dict[str, bool]:
        """The names of all query parameters that the route and its dependencies take, and whether each may repeat."""
        return dict(_parameters_of(self.dependant))

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.url.path.startswith("/v1/"):
                await authenticate(request)
                _check_known(self, request)
            if request.method in METHODS_WITH_BODY:
                body = await read_body(request)
                decoded = decode_json(body) if body else None
                if self.body_field is None and request.url.path.startswith("/v1/"):
                    _check_empty(decoded)
                request = _Loaded(request, body, decoded)
            return await handler(request)

        return handle


def _parameters_of(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        yield field.alias, get_origin(field.field_info.annotation) is list
    for dependency in dependant.dependencies:
        yield from _parameters_of(dependency)


def house_router(*tags: str) -> APIRouter:
    """A router of HouseRoutes."""
    return APIRouter(route_class=HouseRoute, tags=list(tags))


async def read_body(request: Request) -> bytes:
    """The whole body. Raises TooLarge beyond MAX_BODY_BYTES, having read no more than that and a chunk, and TimedOut
    when it takes longer than BODY_SECONDS."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _receive_all(request)
    except TimeoutError:
        raise timed_out() from None


async def _receive_all(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLarge("request.too_large", f"The body is larger than {MAX_BODY_BYTES} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def decode_json(body: bytes) -> Any:
    """JSON to Python values; numbers with a point or an exponent to Decimal.

    Raises Malformed (`request.invalid_json`) for what is no JSON, and Reject for text that can't be stored.
    """
    try:
        decoded = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ArithmeticError) as error:  # the last: an exponent too large
        raise Malformed("request.invalid_json", f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise _too_deep() from None
    _check_texts(decoded, ())
    return decoded


def _too_deep() -> Malformed:
    return Malformed("request.invalid_json", f"The body is nested deeper than {MAX_JSON_DEPTH} levels.")


def _check_texts(value: object, path: tuple[str | int, ...]) -> None:
    if len(path) > MAX_JSON_DEPTH:
        raise _too_deep()
    if isinstance(value, str):
        if "\0" in value:
            raise Reject.at(pointer(*path), "request.invalid_field", "Text must not hold the character U+0000.")
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            _check_texts(key, path)
            _check_texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _check_texts(item, (*path, index))


def _check_empty(decoded: Any) -> None:
    """A route that takes no fields refuses those it is given, as others refuse those they don't know."""
    if decoded is None or decoded == {}:
        return
    if not isinstance(decoded, dict):
        raise Reject.at("", INVALID_FIELD, "The body, if there is one, is an object.")
    names = list(cast("dict[str, object]", decoded))
    errors = tuple(
        FieldError(pointer=pointer(name), code=UNKNOWN_FIELD, detail="There is no such field here.") for name in names
    )
    raise Reject(UNKNOWN_FIELD, f"This takes no fields, and has {names[0]!r}.", errors=errors)


async def check_names(request: Request) -> None:
    """A dependency of the whole app: a path that no store can hold names nothing, and parameters can be stored."""
    for value in request.path_params.values():
        if not _is_storable(str(value)):
            raise NotFound("request.not_found", "No object has such a name.")
    for name, value in request.query_params.multi_items():
        if not (_is_storable(name) and _is_storable(value)):
            raise Reject.at(pointer(name), "request.invalid_field", "Parameters must be plain Unicode text.")


def _check_known(route: HouseRoute, request: Request) -> None:
    """Only parameters that the route knows may be given: a misspelt filter would let everything through. And those
    with one value only once: of two values one would be dropped without a word."""
    unknown = [name for name in request.query_params if not _knows(route, name) and _is_storable(name)]
    if unknown:
        errors = tuple(
            FieldError(pointer=pointer(name), code=UNKNOWN_PARAMETER, detail="There is no such parameter here.")
            for name in unknown
        )
        raise Reject(UNKNOWN_PARAMETER, f"There is no parameter {unknown[0]!r} here.", errors=errors)
    names = [name for name, _ in request.query_params.multi_items() if route.parameters.get(name) is False]
    if len(names) > len(set(names)):
        repeated = [name for name, times in Counter(names).items() if times > 1]
        detail = "This parameter takes one value, once."
        errors = tuple(FieldError(pointer=pointer(name), code=REPEATED_PARAMETER, detail=detail) for name in repeated)
        raise Reject(REPEATED_PARAMETER, f"The parameter {repeated[0]!r} is given more than once.", errors=errors)


def _knows(route: HouseRoute, name: str) -> bool:
    return name in route.parameters or (route.path == FILTERED_PATH and name.startswith("filter["))


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
