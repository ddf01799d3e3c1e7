"""Meters: what of an event counts, how, and by which groups."""

from enum import StrEnum

import msgspec


class Aggregation(StrEnum):
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"
    LATEST = "latest"
    UNIQUE_COUNT = "unique_count"
    WEIGHTED_SUM = "weighted_sum"


#: Their windows add up: minutes of `usage_minutes`, with the number of values and their sum. An average divides them.
ADDITIVE = frozenset({Aggregation.COUNT, Aggregation.SUM, Aggregation.AVG})

#: Their windows don't: what they took is kept event by event, in `usage_values`.
BY_VALUE = frozenset(Aggregation) - ADDITIVE


class FilterOperator(StrEnum):
    EQ = "eq"
    NE = "ne"
    IN = "in"
    NOT_IN = "not_in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    EXISTS = "exists"


class Filter(msgspec.Struct, frozen=True):
    """Filters of a meter are ANDed. Two numbers compare as numbers, exactly: 1 equals 1.0 and 1e0, never "1".

    `values` are the JSON texts of strings, booleans and numbers (`"eu"` with its quotes, `true`, `1.5`): text keeps
    a number exact and its kind plain, wherever the catalogue is stored. `schemas.filters.literal_text` writes one.
    `eq`, `ne`, `gt`, `gte`, `lt`, `lte` and `exists` have exactly one, `in` and `not_in` one or more.
    """

    property: str  # a path such as $.region
    op: FilterOperator
    values: tuple[str, ...] = ()


MAX_FILTERS = 20
MAX_FILTER_VALUES = 100
MAX_GROUPS = 5
