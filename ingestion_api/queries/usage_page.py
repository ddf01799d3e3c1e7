"""One page of usage: the stored rows, and with `fill=zero` the windows in which nothing happened."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import islice, pairwise

from infra.clickhouse.client import Client
from infra.clickhouse.usage import query_usage, usage_groups
from infra.clickhouse.usage_query import UsageKey, UsageQuery
from schemas.errors import Reject

MAX_FILLED_SERIES = 1_000  # customers and groups whose empty windows one query may fill


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """`customer_no` 0: customers are not told apart."""

    key: UsageKey
    window_end: datetime
    value: Decimal


def usage_page(client: Client, query: UsageQuery, *, after: UsageKey | None, limit: int, fill: bool) -> list[UsageRow]:
    """Up to `limit` rows after `after`, by window, customer and group. Raises Reject as `query_usage` does."""
    if not fill:
        values = query_usage(client, query, after=after, limit=limit)
    else:
        keys = list(islice(_all_keys(client, query, after), limit))
        values = dict.fromkeys(keys, Decimal(0))
        if keys:
            values |= _values_of(client, query, keys)
    ends = dict(pairwise(query.bounds))
    return [UsageRow(key=key, window_end=ends[key.window_start], value=value) for key, value in values.items()]


def _all_keys(client: Client, query: UsageQuery, after: UsageKey | None) -> Iterator[UsageKey]:
    series = [(0, ())]
    if query.group_by or (query.by_customer and query.customer_nos is None):
        series = usage_groups(client, query, limit=MAX_FILLED_SERIES + 1)
        if len(series) > MAX_FILLED_SERIES:
            raise Reject.at(
                "/fill", "usage.too_many_groups", f"fill=zero takes at most {MAX_FILLED_SERIES} customers and groups."
            )
    elif query.by_customer and query.customer_nos:
        series = [(customer_no, ()) for customer_no in query.customer_nos]
    for window_start in query.bounds[:-1]:
        if after is not None and window_start < after.window_start:
            continue
        for customer_no, groups in series:
            key = UsageKey(window_start, customer_no, groups)
            if after is None or key > after:
                yield key


def _values_of(client: Client, query: UsageQuery, keys: list[UsageKey]) -> dict[UsageKey, Decimal]:
    """The values there are at `keys`, which are consecutive: a query of just their windows finds no others between."""
    ends = dict(pairwise(query.bounds))
    first, last = keys[0].window_start, keys[-1].window_start
    part = replace(query, start=max(query.start, first), end=min(query.end, ends[last]))
    wanted = set(keys)
    found = query_usage(client, part, after=None, limit=len(keys) + 2 * MAX_FILLED_SERIES)
    return {key: value for key, value in found.items() if key in wanted}
