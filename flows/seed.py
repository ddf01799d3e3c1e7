"""What a counter starts from: all that is stored of its period by this shard, and by former shards whose partitions it
has taken over. Whole minutes come from the windows, the rest event by event."""

from collections import defaultdict
from collections.abc import Collection, Mapping

from flows.catalogue import Catalogue
from flows.counters import FOREVER, Counted
from flows.fields import SCALE
from infra.clickhouse.client import Client
from infra.clickhouse.edges import Edge, edge_values
from infra.clickhouse.seeds import Span, stored_minutes
from infra.postgres.counters import SeededBy
from schemas.instants import MINUTE_MICROS, from_micros
from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE


def load_seeds(
    client: Client, *, layout: SeededBy, periods: list[Counted], catalogue: Catalogue,
    rows: Mapping[Counted, Collection[SeededBy]],
) -> dict[Counted, int]:  # fmt: skip
    """Units of 10^-12 of each period. Every batch that has moved the shard's offsets must be in ClickHouse.

    `rows`: who has seeded a period already; what those began with is not taken a second time.
    """
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
                    revision=meter.revision,
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
    units: dict[Counted, int] = defaultdict(int)

    def is_new(period: Counted, shard: int) -> bool:
        return not any(row.takes(shard) for row in rows.get(period, ()))

    for key, by_shard in stored_minutes(client, shard=layout.shard, shards=layout.shards, spans=whole).items():
        period = periods[key]
        counts = catalogue.tenant_meters[period.meter_no][1].aggregation is Aggregation.COUNT
        for shard, (count, total) in by_shard.items():
            if is_new(period, shard):
                units[period] += count * SCALE if counts else int(total.scaleb(MAX_SCALE, EXACT))
    for found in edge_values(client, [edge for _, edge in edges], shard=layout.shard, shards=layout.shards):
        period = edges[found.index][0]
        if is_new(period, found.shard):
            units[period] += int(found.value.scaleb(MAX_SCALE, EXACT))
    return {period: units[period] for period in periods}
