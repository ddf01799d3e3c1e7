"""Meters: what of an event counts, how, and by which groups."""

from collections.abc import Mapping
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

#: What a bucket of a meter's usage can be aggregated by: what follows from what the meter keeps of its events.
_KEPT_BY_VALUE = frozenset({Aggregation.MIN, Aggregation.MAX, Aggregation.LATEST, Aggregation.WEIGHTED_SUM})
_KEPT_BY_MINUTE = frozenset({Aggregation.COUNT, Aggregation.SUM, Aggregation.AVG})
BUCKET_AGGREGATIONS: Mapping[Aggregation, frozenset[Aggregation]] = {
    Aggregation.COUNT: frozenset({Aggregation.COUNT, Aggregation.SUM}),  # the sum of a count is the count
    Aggregation.SUM: _KEPT_BY_MINUTE,
    Aggregation.AVG: _KEPT_BY_MINUTE,
    Aggregation.MIN: _KEPT_BY_VALUE,
    Aggregation.MAX: _KEPT_BY_VALUE,
    Aggregation.LATEST: _KEPT_BY_VALUE,
    Aggregation.WEIGHTED_SUM: _KEPT_BY_VALUE,
    Aggregation.UNIQUE_COUNT: frozenset({Aggregation.UNIQUE_COUNT}),
}
