"""The proof before an invoice: the windows of a period are the raw events of that period, by count and by sum.

The raw events are those of the batches that the meter judged; see `taken`.

ClickHouse adds the raw events up by an expression of its own. Where that differs from the windows, the customer's
events are judged one by one by the flow's own functions, so that only a true difference is called one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from infra.clickhouse.client import Client
from infra.clickhouse.edges import whole_minutes
from infra.clickhouse.taken import Batches, judged_batches, taken_from
from infra.clickhouse.usage import Span
from schemas.catalogue import MeterEntry
from schemas.instants import to_micros
from schemas.meters import Aggregation, Filter
from schemas.money import EXACT, format_decimal
from schemas.paths import parse_path

#: Spans a query: as text their bounds stay well below the 128 KiB that ClickHouse takes in one parameter.
SPANS_A_QUERY = 1_000

Seqs = Mapping[int, Batches]  # by shard
NO_BATCHES = Batches(1, 0)

_literal = msgspec.json.Decoder(float_hook=Decimal)


@dataclass(slots=True)
class Counted:
    """How many events a meter took something from, and what in all; 0 in all for a count."""

    events: int = 0
    total: Decimal = Decimal(0)

    def __str__(self) -> str:
        return f"{self.events} events with a sum of {format_decimal(self.total)}"


def prove_windows(
    client: Client, *, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], stored_seqs: Mapping[int, int]
) -> dict[Span, str]:
    """The spans whose windows are not equal to their raw events, and how they differ; nothing is the proof.

    Only whole minutes have windows. `stored_seqs`: by shard, the last batch up to which all are stored in full; it
    must have been read before. What is stored after it is not looked at, so both sides see the same batches.
    """
    seqs = {
        shard: Batches(batches.first_seq, min(batches.last_seq, stored_seqs.get(shard, 0)))
        for (_, revision, shard), batches in judged_batches(client, [meter]).items()
        if revision == meter.revision
    }
    broken: dict[Span, str] = {}
    for start in range(0, len(spans), SPANS_A_QUERY):
        page = spans[start : start + SPANS_A_QUERY]
        windows = _sum_windows(client, meter, page, seqs)
        events = _sum_events(client, tenant_no, meter, page, seqs)
        for index, span in enumerate(page):
            stored = windows.get(index, Counted())
            if events.get(index, Counted()) == stored:
                continue
            exact = _judge_events(client, tenant_no, meter, span, seqs)
            if exact != stored:
                broken[span] = f"the windows hold {stored}, the raw events are {exact}"
    return broken


def _sum_windows(client: Client, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[int, Counted]:
    rows = client.query(
        "SELECT span, sum(w.event_count), sum(w.total) FROM ("  # noqa: S608 - a text of this file
        " SELECT customer_no, toUnixTimestamp64Second(minute) * 1000000 AS at, event_count, total"
        " FROM usage_minutes FINAL"
        " WHERE meter_no = {meter_no:UInt32} AND revision = {revision:UInt32}"
        " AND customer_no IN {customers:Array(UInt64)}"
        " AND minute >= fromUnixTimestamp64Micro({low:Int64}) AND minute < fromUnixTimestamp64Micro({high:Int64})"
        f" AND {STORED_SQL}) AS w INNER JOIN {SPANS_SQL} AS s ON w.customer_no = s.customer_no"
        " WHERE w.at >= s.first AND w.at < s.last GROUP BY span",
        parameters=_parameters(meter, spans, seqs),
    ).result_rows
    return {index: _counted(meter, events, total) for index, events, total in rows}


def _sum_events(
    client: Client, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs
) -> dict[int, Counted]:
    parameters = _raw_parameters(tenant_no, meter, spans, seqs)
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
        f" FROM events FINAL WHERE {RAW_SQL}{condition}) AS e"
        f" INNER JOIN {SPANS_SQL} AS s ON e.customer_no = s.customer_no"
        " WHERE e.at >= s.first AND e.at < s.last GROUP BY span",
        parameters=parameters,
    ).result_rows
    return {index: _counted(meter, events, total) for index, events, total in rows}


def _judge_events(client: Client, tenant_no: int, meter: MeterEntry, span: Span, seqs: Seqs) -> Counted:
    """The same, event by event, streamed: slow and right."""
    events, total = 0, Decimal(0)
    with client.query_rows_stream(
        f"SELECT data FROM events FINAL WHERE {RAW_SQL}",  # noqa: S608 - a text of this file
        parameters=_raw_parameters(tenant_no, meter, [span], seqs),
    ) as stream:
        for (text,) in stream:
            taken = taken_from(meter, text)
            if taken is not None:
                events += 1
                total = EXACT.add(total, taken[1])
    return _counted(meter, events, total)


def _counted(meter: MeterEntry, events: int, total: Decimal) -> Counted:
    return Counted(events, Decimal(0) if meter.aggregation is Aggregation.COUNT else total)


#: The spans as a table: span (index), customer_no, first, last (whole minutes, in microseconds since 1970).
SPANS_SQL = (
    "(SELECT t.1 AS span, t.2 AS customer_no, t.3 AS first, t.4 AS last FROM (SELECT arrayJoin(arrayZip("
    "{places:Array(UInt32)}, {owners:Array(UInt64)}, {firsts:Array(Int64)}, {lasts:Array(Int64)})) AS t))"
)
#: Batches that the meter judged and that are stored in full; a shard that is not named has none.
STORED_SQL = (
    "has({shards:Array(UInt16)}, shard)"
    " AND seq >= transform(shard, {shards:Array(UInt16)}, {first_seqs:Array(UInt64)}, toUInt64(0))"
    " AND seq <= transform(shard, {shards:Array(UInt16)}, {last_seqs:Array(UInt64)}, toUInt64(0))"
)
RAW_SQL = (
    "tenant_no = {tenant_no:UInt32} AND type = {type:String} AND status = 'counted'"
    " AND customer_no IN {customers:Array(UInt64)}"
    " AND occurred_at >= fromUnixTimestamp64Micro({low:Int64}) AND occurred_at < fromUnixTimestamp64Micro({high:Int64})"
    " AND toStartOfHour(occurred_at) >= toStartOfHour(fromUnixTimestamp64Micro({low:Int64}, 'UTC'))"
    " AND toStartOfHour(occurred_at) <= toStartOfHour(fromUnixTimestamp64Micro({high:Int64}, 'UTC'))"
    f" AND {STORED_SQL}"
)


def _parameters(meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[str, Any]:
    minutes = [whole_minutes(span.start, span.end) for span in spans]
    firsts, lasts = [to_micros(first) for first, _ in minutes], [to_micros(last) for _, last in minutes]
    proven = dict(seqs) or {0: NO_BATCHES}
    return {
        "meter_no": meter.meter_no,
        "revision": meter.revision,
        "places": list(range(len(spans))),
        "owners": [span.customer_no for span in spans],
        "firsts": firsts,
        "lasts": lasts,
        "customers": sorted({span.customer_no for span in spans}),
        "low": min(firsts),
        "high": max(lasts),
        "shards": list(proven),
        "first_seqs": [batches.first_seq for batches in proven.values()],
        "last_seqs": [batches.last_seq for batches in proven.values()],
    }


def _raw_parameters(tenant_no: int, meter: MeterEntry, spans: Sequence[Span], seqs: Seqs) -> dict[str, Any]:
    own = {"tenant_no": tenant_no, "type": meter.event_type}
    return own | _parameters(meter, spans, seqs)


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
