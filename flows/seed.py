"""What a counter starts from: all that this shard has stored of its period, whole minutes from the windows, the rest
event by event."""

from collections import defaultdict

from flows.catalogue import Catalogue
from flows.counters import FOREVER, Counted
from flows.fields import SCALE
from infra.clickhouse.client import Client
from infra.clickhouse.seeds import Span, stored_data, stored_minutes
from schemas.catalogue import MeterEntry
from schemas.instants import MINUTE_MICROS
from schemas.matching import event_value, matches, parse_data
from schemas.meters import Aggregation
from schemas.money import EXACT, MAX_SCALE


def load_seeds(client: Client, shard: int, periods: list[Counted], catalogue: Catalogue) -> dict[Counted, int]:
    """Units of 10^-12 of each period. Every batch that has moved the shard's offsets must be in ClickHouse."""
    whole: list[Span] = []
    edges: list[Span] = []
    for key, period in enumerate(periods):
        tenant_no, meter = catalogue.tenant_meters[period.meter_no]
        first = -(-period.start // MINUTE_MICROS) * MINUTE_MICROS
        last = period.end // MINUTE_MICROS * MINUTE_MICROS
        if first < last:
            whole.append(_span(key, period, tenant_no, meter, first, last))
        head_end = min(first, period.end)
        tail_start = period.end if period.end == FOREVER else max(last, head_end)
        edges += [
            _span(key, period, tenant_no, meter, start, end)
            for start, end in ((period.start, head_end), (tail_start, period.end))
            if start < end
        ]
    units: dict[Counted, int] = defaultdict(int)
    for key, (count, total) in stored_minutes(client, shard, whole).items():
        _, meter = catalogue.tenant_meters[periods[key].meter_no]
        units[periods[key]] += (
            count * SCALE if meter.aggregation is Aggregation.COUNT else int(total.scaleb(MAX_SCALE, EXACT))
        )
    for key, text in stored_data(client, shard, edges):
        _, meter = catalogue.tenant_meters[periods[key].meter_no]
        data = parse_data(text)
        value = event_value(meter, data) if matches(meter, data) else None
        if value is not None:
            units[periods[key]] += int(value.scaleb(MAX_SCALE, EXACT))
    return {period: units[period] for period in periods}


def _span(key: int, period: Counted, tenant_no: int, meter: MeterEntry, start: int, end: int) -> Span:
    return Span(
        key=key,
        tenant_no=tenant_no,
        customer_no=period.customer_no,
        meter_no=period.meter_no,
        revision=meter.revision,
        event_type=meter.event_type,
        start=start,
        end=end,
    )
