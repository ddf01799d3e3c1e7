"""What a meter's body may say: value, filters and groups. Checked here, stored as `schemas.meters` has them."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from ingestion_api.fields import Body, Key, Metadata, Name
from ingestion_api.problems import pointer
from schemas.arithmetic import MAX_VALUE_LENGTH, parse_value
from schemas.errors import Reject
from schemas.events import MAX_FIELD_LENGTH
from schemas.filters import literal_text
from schemas.meters import MAX_FILTER_VALUES, MAX_FILTERS, MAX_GROUPS, Aggregation, Filter, FilterOperator
from schemas.money import parse_decimal
from schemas.paths import MAX_PATH_LENGTH, Path, parse_path

PathText = Annotated[str, Field(min_length=1, max_length=MAX_PATH_LENGTH)]
ValueText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_VALUE_LENGTH,
        description="A path into data such as $.tokens, or arithmetic over paths: $.input + 3 * $.output. None: count.",
    ),
]
FilterLiteral = str | bool | int | Decimal

#: Operators that take one value and no more.
SINGLE = frozenset(FilterOperator) - {FilterOperator.IN, FilterOperator.NOT_IN}
ORDERING = frozenset({FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE})


def check_filter_value(value: object) -> object:
    """Text, a boolean or a number. Raises ValueError for anything else, and for text that is too long."""
    if not isinstance(value, str | bool | int | Decimal):
        raise ValueError("must be a string, a number or a boolean")
    if isinstance(value, str) and len(value) > MAX_FIELD_LENGTH:
        raise ValueError(f"must have at most {MAX_FIELD_LENGTH} characters")
    return value


FilterValue = Annotated[
    Any, AfterValidator(check_filter_value), WithJsonSchema({"type": ["string", "number", "boolean"]})
]


class FilterBody(Body):
    property: PathText
    op: Literal["eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "exists"]
    values: Annotated[list[FilterValue], Field(default_factory=list, max_length=MAX_FILTER_VALUES)]


class MeterBody(Body):
    key: Key
    name: Name | None = None
    event_type: Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
    aggregation: Literal["count", "sum", "min", "max", "avg", "latest", "unique_count", "weighted_sum"]
    value: ValueText | None = None
    filters: Annotated[list[FilterBody], Field(default_factory=list, max_length=MAX_FILTERS)]
    group_by: Annotated[list[PathText], Field(default_factory=list, max_length=MAX_GROUPS)]
    metadata: Metadata


def read_value(aggregation: Aggregation, value: str | None) -> str | None:
    """The value as it is stored: a path, or arithmetic over paths; None of a count. Raises Reject."""
    if aggregation is Aggregation.COUNT:
        if value is not None:
            raise _invalid_value("A count takes no value: it counts events.")
        return None
    if value is None:
        raise _invalid_value(f"{aggregation} needs its value: a path such as $.tokens, or arithmetic over paths.")
    try:
        expression = parse_value(value)
    except ValueError as error:
        raise _invalid_value(f"{error}") from None
    if aggregation is Aggregation.UNIQUE_COUNT and expression.path is None:
        raise _invalid_value(
            "unique_count takes a path such as $.user_id, and no arithmetic: it counts any JSON value."
        )
    return value


def _invalid_value(detail: str) -> Reject:
    return Reject.at("/value", "meter.invalid_value", detail)


def read_filters(bodies: Sequence[FilterBody]) -> list[Filter]:
    """The filters as they are stored. Raises Reject."""
    return [_read_filter(body, pointer("filters", index)) for index, body in enumerate(bodies)]


def _read_filter(body: FilterBody, where: str) -> Filter:
    _read_path(body.property, f"{where}/property", "meter.invalid_filter")
    op = FilterOperator(body.op)
    values: list[FilterLiteral] = body.values
    if op is FilterOperator.EXISTS and not values:
        values = [True]
    if not values or (op in SINGLE and len(values) != 1):
        how_many = "exactly one value" if op in SINGLE else "at least one value"
        raise Reject.at(f"{where}/values", "meter.invalid_filter", f"{op} takes {how_many}.")
    if op is FilterOperator.EXISTS and not isinstance(values[0], bool):
        raise Reject.at(f"{where}/values/0", "meter.invalid_filter", "exists takes true or false.")
    if op in ORDERING and isinstance(values[0], bool):
        raise Reject.at(f"{where}/values/0", "meter.invalid_filter", f"{op} takes a number or a string.")
    return Filter(
        property=body.property,
        op=op,
        values=tuple(_read_literal(value, f"{where}/values/{position}") for position, value in enumerate(values)),
    )


def _read_literal(value: FilterLiteral, where: str) -> str:
    if not isinstance(value, str | bool):
        try:
            parse_decimal(str(value))
        except ValueError as error:
            raise Reject.at(where, "meter.invalid_filter", str(error)) from None
    return literal_text(value)


def read_group_by(names: list[str]) -> list[str]:
    """Property names without `$.`. A group is a property of `data` itself. Raises Reject."""
    groups: list[str] = []
    for index, name in enumerate(names):
        group = name
        if name.startswith("$"):
            path = _read_path(name, pointer("group_by", index), "meter.invalid_group_by")
            if len(path) != 1:
                raise Reject.at(
                    pointer("group_by", index), "meter.invalid_group_by", "A group is a property of data itself."
                )
            group = path[0]
        if group in groups or group == "customer":
            raise Reject.at(pointer("group_by", index), "meter.invalid_group_by", f"{group!r} is a group already.")
        groups.append(group)
    return groups


def _read_path(text: str, where: str, code: str) -> Path:
    try:
        return parse_path(text)
    except ValueError as error:
        raise Reject.at(where, code, f"{error}") from None
