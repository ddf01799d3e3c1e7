"""What a counter starts from: all that is stored of its period by this shard, and by former shards whose partitions it
has taken over, too. What adds up comes by whole minutes from the windows, the rest event by event; what is ranked comes
from this shard's partitions, whoever stored it."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal

from flows.additions import Amount, Amounts
from flows.catalogue import Catalogue
from flows.counters import FOREVER, Counted
from flows.fields import SCALE
from infra.clickhouse.client import Client
from infra.clickhouse.edges import Edge, edge_values
from infra.clickhouse.seeds import Span, stored_minutes
from infra.clickhouse.value_seeds import about_how_many_texts, stored_extremes, stored_texts
from infra.postgres.counters import SeededBy
from schemas.counters import RANKED
from schemas.instants import MINUTE_MICROS, from_micros
from schemas.meters import ADDITIVE, Aggregation
from schemas.money import EXACT, MAX_SCALE

#: Values of unique counts that are seeded at once. A period of which a shard has stored more before it was counted is
#: not counted at all: what its check needs is measured.
MAX_SEED_VALUES = 100_000

Rows = Mapping[Counted, Collection[SeededBy]]


def load_seeds(
    client: Client, *, layout: SeededBy, periods: list[Counted], catalogue: Catalogue, rows: Rows
) -> tuple[Amounts, list[Counted]]:
    """The seeds of all of these periods that are done now, and those that have too many values to be counted. The
    others wait. Every batch that has moved the shard's offsets must be in ClickHouse.

    `rows`: who has seeded a period already; what those began with is not taken a second time.
    """
    by_kind: dict[Aggregation, list[Counted]] = defaultdict(list)
    for period in periods:
        by_kind[period.aggregation].append(period)
    seeds: Amounts = {}
    too_many: list[Counted] = []
    additive = [period for period in periods if period.aggregation in ADDITIVE]
    if additive:
        seeds |= _added_up(client, layout, additive, catalogue, rows)
    for aggregation in sorted(RANKED & by_kind.keys()):
        own = by_kind[aggregation]
        found = stored_extremes(
            client, aggregation=aggregation, shard=layout.shard, shards=layout.shards, spans=_spans(own)
        )
        seeds |= {period: Amount() for period in own}
        for key, (value, rank) in found.items():
            seeds[own[key]].put(rank, _units(value), 1)
    if by_kind[Aggregation.UNIQUE_COUNT]:
        counted, too_many = _told_apart(client, layout, by_kind[Aggregation.UNIQUE_COUNT], rows)
        seeds |= counted
    return seeds, too_many


def _is_new(rows: Rows, period: Counted, stored_by: int) -> bool:
    return not any(row.takes(stored_by) for row in rows.get(period, ()) if not row.is_stale)


def _units(value: Decimal) -> int:
    return int(value.scaleb(MAX_SCALE, EXACT))


def _spans(periods: Iterable[Counted]) -> list[Span]:
    """All of each period."""
    return [
        Span(
            key=key,
            customer_no=period.customer_no,
            meter_no=period.meter_no,
            revision=period.revision,
            start=period.start,
            end=period.end,
        )
        for key, period in enumerate(periods)
    ]


def _told_apart(client: Client, layout: SeededBy, periods: list[Counted], rows: Rows) -> tuple[Amounts, list[Counted]]:
    """Seeds of unique counts, of as many periods as MAX_SEED_VALUES let; and those that have more than that alone."""
    spans = _spans(periods)
    sizes = about_how_many_texts(client, shard=layout.shard, shards=layout.shards, spans=spans)
    chosen: list[Span] = []
    too_many: list[Counted] = []
    room = MAX_SEED_VALUES
    for span in spans:
        size = sizes.get(span.key, 0)
        if size > MAX_SEED_VALUES:
            too_many.append(periods[span.key])
        elif size <= room:
            room -= size
            chosen.append(span)
    found = stored_texts(client, shard=layout.shard, shards=layout.shards, spans=chosen) if chosen else {}
    seeds: Amounts = {periods[span.key]: Amount() for span in chosen}
    for key, by_shard in found.items():
        for shard, refs_of in by_shard.items():
            if _is_new(rows, periods[key], shard):
                for digest, refs in refs_of.items():
                    seeds[periods[key]].put_value(digest, refs)
    return seeds, too_many


def _added_up(client: Client, layout: SeededBy, periods: list[Counted], catalogue: Catalogue, rows: Rows) -> Amounts:
    """Seeds of what adds up: whole minutes, and the events of the minutes that a period cuts."""
    whole: list[Span] = []
    edges: list[tuple[Counted, Edge]] = []
    for key, period in enumerate(periods):
        tenant_no, meter = catalogue.tenant_meters[period.meter_no]
        first = -(-period.start // MINUTE_MICROS) * MINUTE_MICROS
        last = period.end // MINUTE_MICROS * MINUTE_MICROS
        if first < last:
            whole.append(
                Span(
                    key=key,
                    customer_no=period.customer_no,
                    meter_no=period.meter_no,
                    revision=period.revision,
                    start=first,
                    end=last,
                )
            )
        head_end = min(first, period.end)
        tail_start = period.end if period.end == FOREVER else max(last, head_end)
        edges += [
            (period, Edge(tenant_no=tenant_no, meter=meter, customer_no=period.customer_no,
                          start=from_micros(start), end=from_micros(end)))
            for start, end in ((period.start, head_end), (tail_start, period.end))
            if start < end
        ]  # fmt: skip
    seeds: Amounts = {period: Amount() for period in periods}
    for key, by_shard in stored_minutes(client, shard=layout.shard, shards=layout.shards, spans=whole).items():
        period = periods[key]
        for shard, (count, total) in by_shard.items():
            if _is_new(rows, period, shard):
                counts = period.aggregation is Aggregation.COUNT
                seeds[period].units += count * SCALE if counts else _units(total)
                seeds[period].events += count if period.aggregation is Aggregation.AVG else 0
    for found in edge_values(client, [edge for _, edge in edges], shard=layout.shard, shards=layout.shards):
        period = edges[found.index][0]
        if _is_new(rows, period, found.shard):
            seeds[period].units += _units(found.value)
            seeds[period].events += found.effect if period.aggregation is Aggregation.AVG else 0
    return seeds
