"""The proof before an invoice: the windows of a period are the stored facts of that period, by count and by sum.

ClickHouse adds the facts up by an expression of its own, where a meter is as simple as that. Where it is not, or that
differs from the windows, the customer's facts are judged one by one, so that only a true difference is called one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from xxhash import xxh64_intdigest

from infra.clickhouse.client import Client, numbers
from infra.clickhouse.edges import whole_minutes
from infra.clickhouse.taken import taken_from
from infra.clickhouse.usage_query import Span
from schemas.arithmetic import parse_value
from schemas.catalogue import MeterEntry
from schemas.instants import to_micros
from schemas.matching import event_text, parse_data
from schemas.meters import BY_VALUE, Aggregation, Filter, FilterOperator
from schemas.money import EXACT, format_decimal
from schemas.paths import Path, parse_path

#: Spans a query: as text their bounds stay well below the 128 KiB that ClickHouse takes in one parameter.
SPANS_A_QUERY = 1_000

Seqs = Mapping[int, int]  # by shard: the last batch that is looked at
SIMPLE_OPERATORS = frozenset({FilterOperator.EQ, FilterOperator.IN})

_literal = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(slots=True)
class Counted:
    """How many events a meter took something from, and what in all; 0 in all for a count. `texts`: of a unique count,
    the sum of the hashes of what it took."""

    events: int = 0
    total: Decimal = Decimal(0)
    texts: int = 0

    def __str__(self) -> str:
        return f"{self.events} events with a sum of {format_decimal(self.total)}"


def prove_windows(
    client: Client, *, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], stored_seqs: Mapping[int, int]
) -> dict[Span, str]:
    """The spans whose windows are not equal to their raw events, and how they differ; nothing is the proof.

    Only whole minutes are looked at. `stored_seqs`: by shard, the last batch up to which all are stored in full; it
    must have been read before. What is stored after it is not looked at, so both sides see the same batches.
    """
    seqs = stored_seqs
    simple = _is_simple(meter)
    broken: dict[Span, str] = {}
    for start in range(0, len(spans), SPANS_A_QUERY):
        page = spans[start : start + SPANS_A_QUERY]
        windows = _sum_windows(client, meter, page, seqs)
        events = _sum_events(client, tenant_no, meter, page, seqs) if simple else {}
        for index, span in enumerate(page):
            stored = windows.get(index, Counted())
            if simple and events.get(index, Counted()) == stored:
                continue
            exact = _judge_events(client, tenant_no, meter, span, seqs)
            if exact != stored:
                broken[span] = f"the windows hold {stored}, the raw events are {exact}"
    return broken


def _is_simple(meter: MeterEntry) -> bool:
    """Whether `_sum_events` says what the meter takes."""
    if any(rule.op not in SIMPLE_OPERATORS for rule in meter.filters) or meter.aggregation is Aggregation.UNIQUE_COUNT:
        return False
    return meter.value is None or parse_value(meter.value).path is not None


#: Rows of windows as (customer_no, at, events, amount, texts), for the two tables that hold them.
MINUTES_SQL = (
    "SELECT customer_no, toUnixTimestamp64Second(minute) * 1000000 AS at, event_count AS events, total AS amount,"
    " toInt128(0) AS texts FROM usage_minutes FINAL"
    " WHERE minute >= fromUnixTimestamp64Micro({low:Int64}) AND minute < fromUnixTimestamp64Micro({high:Int64})"
)
VALUES_SQL = (
    "SELECT customer_no, toUnixTimestamp64Micro(occurred_at) AS at, toInt64(effect) AS events,"
    " value * effect AS amount, toInt128(xxHash64(text)) * effect AS texts FROM usage_values FINAL"
    " WHERE occurred_at >= fromUnixTimestamp64Micro({low:Int64})"
    " AND occurred_at < fromUnixTimestamp64Micro({high:Int64})"
)


def _sum_windows(client: Client, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[int, Counted]:
    rows = client.query(
        "SELECT span, sum(w.events), sum(w.amount), sum(w.texts) FROM ("  # noqa: S608 - texts of this file
        f" {VALUES_SQL if meter.aggregation in BY_VALUE else MINUTES_SQL}"
        " AND meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND customer_no IN {customers:Array(UInt64)}"
        f" AND {STORED_SQL}) AS w INNER JOIN {SPANS_SQL} AS s ON w.customer_no = s.customer_no"
        " WHERE w.at >= s.first AND w.at < s.last GROUP BY span",
        parameters=_parameters(meter, spans, seqs),
    ).result_rows
    return {index: _counted(meter, events, total, texts) for index, events, total, texts in rows}


def _sum_events(
    client: Client, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs
) -> dict[int, Counted]:
    parameters = _raw_parameters(tenant_no, meter, spans, seqs)
    condition = "".join(_filter_sql(index, rule, parameters) for index, rule in enumerate(meter.filters))
    value, taken = "toDecimal256(0, 12)", "1"
    if meter.aggregation is not Aggregation.COUNT:
        path = None if meter.value is None else parse_value(meter.value).path
        assert path is not None, "a simple meter that is no count reads one path"
        raw = f"JSONExtractRaw(data, {_path_sql('value', path, parameters)})"
        value = f"ifNull(round(toDecimal256OrNull(trim(BOTH '\"' FROM {raw}), 30), 12), 0)"
        taken = f"{raw} NOT IN ('', 'null')"
    rows = client.query(
        f"SELECT span, sumIf(e.effect, e.taken), sumIf(e.value * e.effect, e.taken) FROM ("  # noqa: S608 - values are bound
        f" SELECT customer_no, toUnixTimestamp64Micro(occurred_at) AS at, effect, {value} AS value, {taken} AS taken"
        f" FROM events FINAL WHERE {RAW_SQL}{condition}) AS e"
        f" INNER JOIN {SPANS_SQL} AS s ON e.customer_no = s.customer_no"
        " WHERE e.at >= s.first AND e.at < s.last GROUP BY span",
        parameters=parameters,
    ).result_rows
    return {index: _counted(meter, events, total) for index, events, total in rows}


def _judge_events(client: Client, tenant_no: int, meter: MeterEntry, span: Span, seqs: Seqs) -> Counted:
    """The same, fact by fact, streamed: slow and right."""
    events, total, texts = 0, Decimal(0), 0
    with client.query_rows_stream(
        f"SELECT data, effect FROM events FINAL WHERE {RAW_SQL}",  # noqa: S608 - a text of this file
        parameters=_raw_parameters(tenant_no, meter, [span], seqs),
    ) as stream:
        for text, effect in stream:
            taken = taken_from(meter, text)
            if taken is not None:
                events += effect
                total = EXACT.add(total, taken[1] if effect > 0 else taken[1].copy_negate())
                texts += effect * _text_hash(meter, text)
    return _counted(meter, events, total, texts)


def _text_hash(meter: MeterEntry, text: str) -> int:
    if meter.aggregation is not Aggregation.UNIQUE_COUNT:
        return 0
    return xxh64_intdigest(event_text(meter, parse_data(text)).encode())


def _counted(meter: MeterEntry, events: int, total: Decimal, texts: int = 0) -> Counted:
    return Counted(
        events,
        Decimal(0) if meter.aggregation is Aggregation.COUNT else total,
        texts if meter.aggregation is Aggregation.UNIQUE_COUNT else 0,
    )


#: The spans as a table: span (index), customer_no, first, last (whole minutes, in microseconds since 1970).
SPANS_SQL = (
    "(SELECT t.1 AS span, t.2 AS customer_no, t.3 AS first, t.4 AS last FROM (SELECT arrayJoin(arrayZip("
    "{places:Array(UInt32)}, {owners:Array(UInt64)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})) AS t))"
)
#: Batches that are looked at; a shard that is not named has none.
STORED_SQL = "seq <= transform(shard, {shards:Array(UInt16)}, {last_seqs:Array(UInt64)}, toUInt64(0))"
RAW_SQL = (
    "tenant_no = {tenant_no:UInt32} AND type = {type:String} AND effect != 0"
    " AND customer_no IN {customers:Array(UInt64)}"
    " AND occurred_at >= fromUnixTimestamp64Micro({low:Int64}) AND occurred_at < fromUnixTimestamp64Micro({high:Int64})"
    " AND toStartOfHour(occurred_at) >= toStartOfHour(fromUnixTimestamp64Micro({low:Int64}, 'UTC'))"
    " AND toStartOfHour(occurred_at) <= toStartOfHour(fromUnixTimestamp64Micro({high:Int64}, 'UTC'))"
    f" AND {STORED_SQL}"
)


def _parameters(meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[str, Any]:
    minutes = [whole_minutes(span.start, span.end) for span in spans]
    firsts, lasts = [to_micros(first) for first, _ in minutes], [to_micros(last) for _, last in minutes]
    proven = dict(seqs) or {0: 0}  # arrays that are empty have no type
    return {
        "meter_no": meter.meter_no,
        "revision": meter.revision,
        "places": numbers(range(len(spans))),
        "owners": numbers(span.customer_no for span in spans),
        "firsts": numbers(firsts),
        "lasts": numbers(lasts),
        "customers": numbers(sorted({span.customer_no for span in spans})),
        "low": min(firsts),
        "high": max(lasts),
        "shards": list(proven),
        "last_seqs": list(proven.values()),
    }


def _raw_parameters(tenant_no: int, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[str, Any]:
    own = {"tenant_no": tenant_no, "type": meter.event_type}
    return own | _parameters(meter, spans, seqs)


def _filter_sql(index: int, rule: Filter, parameters: dict[str, Any]) -> str:
    """One filter as a condition; `eq` and `in` alike. Literals keep their kinds."""
    path = _path_sql(f"filter{index}", parse_path(rule.property), parameters)
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


def _path_sql(name: str, names: Path, parameters: dict[str, Any]) -> str:
    """The arguments that lead to a place in the JSON text, bound."""
    parameters |= {f"{name}_{depth}": part for depth, part in enumerate(names)}
    return ", ".join(f"{{{name}_{depth}:String}}" for depth in range(len(names)))
