"""What objects look like on the wire: the documented shapes, shared by answers and OpenAPI."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import WithJsonSchema
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

Item = TypeVar("Item")

# A decimal that goes out as a JSON number, as every bare Decimal of an answer does; pydantic would describe a string.
JsonNumber = Annotated[Decimal, WithJsonSchema({"type": "number"})]


class ListView(TypedDict, Generic[Item]):
    """A page of a list, newest first."""

    object: Literal["list"]
    data: list[Item]
    has_more: bool
    next_cursor: str | None


class Period(TypedDict):
    """Half-open: `start` belongs to it, `end` does not. An end of null never comes."""

    start: datetime
    end: datetime | None


class ObjectView(TypedDict):
    """What every object has."""

    id: str
    created_at: datetime
    metadata: dict[str, str]


class FieldProblem(TypedDict):
    """One wrong place in the input."""

    pointer: str
    code: str
    detail: str


class Problem(TypedDict):
    """An error, as RFC 9457 says. `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem]
