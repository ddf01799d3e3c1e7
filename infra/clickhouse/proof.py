"""The proof before an invoice: the windows of a period are the raw events of that period, by count and by sum.

ClickHouse adds the raw events up by an expression of its own. Where that differs from the windows, the customer's
events are judged one by one by the flow's own functions, so that only a true difference is called one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from infra.clickhouse.client import Client
from infra.clickhouse.metered import (
    SPANS_A_QUERY,
    SPANS_SQL,
    Counted,
    Span,
    SpanUsage,
    judge,
    seq_parameters,
    span_parameters,
)
from schemas.catalogue import MeterEntry
from schemas.meters import Aggregation, Filter
from schemas.money import format_decimal
from schemas.paths import parse_path

_literal = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Windows and raw events of one span differ."""

    span: Span
    windows: Counted
    events: Counted

    def __str__(self) -> str:
        return (
            f"usage windows hold {self.windows.events} events with a sum of {format_decimal(self.windows.total)},"
            f" the raw events are {self.events.events} with {format_decimal(self.events.total)}"
        )


def prove_windows(
    client: Client,
    *,
    tenant_no: int,
    meter: MeterEntry,
    usage: Mapping[Span, SpanUsage],
    stored_seqs: Mapping[int, int],
) -> list[Mismatch]:
    """The spans whose windows are not equal to their raw events; an empty list is the proof."""
    spans = list(usage)
    mismatches: list[Mismatch] = []
    for start in range(0, len(spans), SPANS_A_QUERY):
        page = spans[start : start + SPANS_A_QUERY]
        sums = _sum_events(client, tenant_no, meter, page, stored_seqs)
        for index, span in enumerate(page):
            windows = usage[span].windows
            if _same(meter, sums.get(index, Counted()), windows):
                continue
            exact = _judge_events(client, tenant_no, meter, span, stored_seqs)
            if not _same(meter, exact, windows):
                mismatches.append(Mismatch(span=span, windows=windows, events=exact))
    return mismatches


def _same(meter: MeterEntry, one: Counted, other: Counted) -> bool:
    return one.events == other.events and (meter.aggregation is Aggregation.COUNT or one.total == other.total)


def _sum_events(
    client: Client, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], stored_seqs: Mapping[int, int]
) -> dict[int, Counted]:
    parameters: dict[str, Any] = {**_raw_parameters(tenant_no, meter, spans, stored_seqs)}
    condition = "".join(_filter_sql(index, rule, parameters) for index, rule in enumerate(meter.filters))
    value, taken = "toDecimal256(0, 12)", "1"
    if meter.aggregation is not Aggregation.COUNT:
        assert meter.value is not None, "only a count meter has no value"
        raw = f"JSONExtractRaw(data, {_path_sql('value', meter.value, parameters)})"
        value = f"ifNull(round(toDecimal256OrNull(trim(BOTH '\"' FROM {raw}), 30), 12), 0)"
        taken = f"{raw} NOT IN ('', 'null')"
    rows = client.query(
        f"SELECT span, countIf(e.taken), sumIf(e.value, e.taken) FROM ("  # noqa: S608 - values are bound
        f" SELECT customer_no, toUnixTimestamp64Micro(occurred_at) AS at, {value} AS value, {taken} AS taken"
        f" FROM events FINAL WHERE {_RAW_WHERE}{condition}) AS e"
        f" INNER JOIN {SPANS_SQL} AS s ON e.customer_no = s.customer_no"
        " WHERE e.at >= s.first AND e.at < s.last GROUP BY span",
        parameters=parameters,
    ).result_rows
    return {index: Counted(events, total) for index, events, total in rows}


def _judge_events(
    client: Client, tenant_no: int, meter: MeterEntry, span: Span, stored_seqs: Mapping[int, int]
) -> Counted:
    """The same, event by event: slow and right."""
    counted = Counted()
    with client.query_rows_stream(
        f"SELECT data FROM events FINAL WHERE {_RAW_WHERE}",  # noqa: S608 - a text of this file
        parameters=_raw_parameters(tenant_no, meter, [span], stored_seqs),
    ) as stream:
        for (data,) in stream:
            judged = judge(meter, data)
            if judged is not None:
                counted.add(1, Decimal(0) if meter.aggregation is Aggregation.COUNT else judged[1])
    return counted


_RAW_WHERE = (
    "tenant_no = {tenant_no:UInt32} AND type = {type:String} AND status = 'counted'"
    " AND customer_no IN {customers:Array(UInt64)}"
    " AND occurred_at >= fromUnixTimestamp64Micro({low:Int64}) AND occurred_at < fromUnixTimestamp64Micro({high:Int64})"
    " AND toStartOfHour(occurred_at) >= toStartOfHour(fromUnixTimestamp64Micro({low:Int64}))"
    " AND toStartOfHour(occurred_at) <= toStartOfHour(fromUnixTimestamp64Micro({high:Int64}))"
    " AND seq <= transform(shard, {shards:Array(UInt16)}, {seqs:Array(UInt64)}, toUInt64(0))"
)


def _raw_parameters(
    tenant_no: int, meter: MeterEntry, spans: Sequence[Span], stored_seqs: Mapping[int, int]
) -> dict[str, Any]:
    return {
        "tenant_no": tenant_no,
        "type": meter.event_type,
        **span_parameters(spans),
        **seq_parameters(stored_seqs),
    }


def _filter_sql(index: int, rule: Filter, parameters: dict[str, Any]) -> str:
    """One filter as a condition; `eq` and `in` alike, which is all that meters have yet. Literals keep their kinds."""
    path = _path_sql(f"filter{index}", rule.property, parameters)
    literals = [_literal.decode(value) for value in rule.values]
    texts = [literal for literal in literals if isinstance(literal, str)]
    flags = [str(literal).lower() for literal in literals if isinstance(literal, bool)]
    numbers = [
        format_decimal(Decimal(literal))
        for literal in literals
        if isinstance(literal, int | Decimal) and not isinstance(literal, bool)
    ]
    parameters |= {f"texts{index}": texts, f"flags{index}": flags, f"numbers{index}": numbers}
    kind, raw = f"JSONType(data, {path})", f"JSONExtractRaw(data, {path})"
    return (
        f" AND (({kind} = 'String' AND JSONExtractString(data, {path}) IN {{texts{index}:Array(String)}})"
        f" OR ({kind} = 'Bool' AND {raw} IN {{flags{index}:Array(String)}})"
        f" OR ({kind} IN ('Int64', 'UInt64', 'Double') AND has(arrayMap(n -> toDecimal256OrNull(n, 30),"
        f" {{numbers{index}:Array(String)}}), toDecimal256OrNull({raw}, 30))))"
    )


def _path_sql(name: str, path: str, parameters: dict[str, Any]) -> str:
    """The arguments that lead to a place in the JSON text, bound."""
    names = parse_path(path)
    parameters |= {f"{name}_{depth}": part for depth, part in enumerate(names)}
    return ", ".join(f"{{{name}_{depth}:String}}" for depth in range(len(names)))
