"""What a batch of usage lines needs, measured together, and the proof beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from infra.clickhouse.buckets import group_of, measure_buckets
from infra.clickhouse.client import Client
from infra.clickhouse.proof import prove_windows
from infra.clickhouse.transactions import MAX_TRANSACTIONS, span_transactions
from infra.clickhouse.usage import usage_totals
from infra.clickhouse.usage_query import Span, SpanUsage
from schemas.billing import GroupQuantity, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.money import EXACT

#: Values that one batch is expected to hold in memory.
VALUES_A_BATCH = 1_000_000
#: What a line of transactions is expected to have. Were all of a batch at their limit, it would hold five times that.
EXPECTED_TRANSACTIONS = MAX_TRANSACTIONS // 5


@dataclass(slots=True)
class Measured:
    """By subscription: the usage of each line's key, and why the proof failed where it did."""

    usage: dict[str, dict[str, MeteredUsage]] = field(default_factory=dict[str, dict[str, MeteredUsage]])
    broken: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, subscription_id: str) -> Mapping[str, MeteredUsage]:
        return self.usage.get(subscription_id, {})


def batches(needs: Mapping[str, Sequence[UsageNeed]]) -> Iterator[list[str]]:
    """The keys in batches that can be measured together: most needs are one value, some are thousands."""
    batch: list[str] = []
    held = 0
    for key, own in needs.items():
        values = sum(map(_expected_values, own))
        if batch and held + values > VALUES_A_BATCH:
            yield batch
            batch, held = [], 0
        batch.append(key)
        held += values
    if batch:
        yield batch


def _expected_values(need: UsageNeed) -> int:
    if need.each:
        return EXPECTED_TRANSACTIONS
    return 1 if need.buckets is None else len(need.buckets.bounds)


def measure(client: Client, needs: Sequence[UsageNeed], stored_seqs: Mapping[int, int] | None = None) -> Measured:
    """The usage of all needs. With `stored_seqs` the windows are compared with the raw events; see `proof`.

    Raises Reject `usage.too_many_buckets`, `usage.too_many_transactions` and what `usage_totals` raises.
    """
    measured = Measured()
    for tenant_no in sorted({need.tenant_no for need in needs}):
        own = [need for need in needs if need.tenant_no == tenant_no]
        found = list(_measured(client, tenant_no, own))
        broken = {} if stored_seqs is None else _prove(client, tenant_no, own, stored_seqs)
        for need, metered in found:
            measured.usage.setdefault(need.subscription_id, {})[need.key] = metered
            span = _span(need)
            if span in broken:
                measured.broken[need.subscription_id] = f"{need.key}: {broken[span]}"
    return measured


def _measured(client: Client, tenant_no: int, needs: Sequence[UsageNeed]) -> Iterator[tuple[UsageNeed, MeteredUsage]]:
    """Every need with its usage, measured in the way it asks for."""
    cut = [need for need in needs if need.buckets is not None]
    yield from zip(cut, measure_buckets(client, cut), strict=True)
    each = [need for need in needs if need.buckets is None and need.each]
    values = span_transactions(client, tenant_no=tenant_no, meters=_meters(each), spans=[_span(need) for need in each])
    for need in each:
        yield need, _transactions(need.meter, values[_span(need)])
    whole = [need for need in needs if need.buckets is None and not need.each]
    totals = usage_totals(client, tenant_no=tenant_no, meters=_meters(whole), spans=[_span(need) for need in whole])
    for need in whole:
        yield need, _metered(need.meter, totals[_span(need)])


def _prove(
    client: Client, tenant_no: int, needs: Sequence[UsageNeed], stored_seqs: Mapping[int, int]
) -> dict[Span, str]:
    """The spans whose windows are not equal to their raw events. Buckets are made of the same windows."""
    broken: dict[Span, str] = {}
    spans = [_span(need) for need in needs]
    for meter in _meters(needs).values():
        of_meter = sorted({span for span in spans if span.meter_no == meter.meter_no}, key=_place)
        broken |= prove_windows(client, tenant_no=tenant_no, meter=meter, spans=of_meter, stored_seqs=stored_seqs)
    return broken


def _meters(needs: Sequence[UsageNeed]) -> dict[int, MeterEntry]:
    return {need.meter.meter_no: need.meter for need in needs}


def _span(need: UsageNeed) -> Span:
    return Span(
        customer_no=need.customer_no,
        meter_no=need.meter.meter_no,
        start=need.period.start,
        end=need.period.end,
    )


def _place(span: Span) -> tuple[int, object, object]:
    return span.customer_no, span.start, span.end


def _metered(meter: MeterEntry, usage: SpanUsage) -> MeteredUsage:
    """Groups in a fixed order."""
    return MeteredUsage(
        meter_no=meter.meter_no,
        quantity=Decimal(0) if usage.whole is None else usage.whole,
        groups=tuple(
            GroupQuantity(group=group_of(meter, texts), quantity=quantity)
            for texts, quantity in sorted(usage.groups.items())
        ),
    )


def _transactions(meter: MeterEntry, values: Sequence[Decimal]) -> MeteredUsage:
    whole = Decimal(0)
    for value in values:
        whole = EXACT.add(whole, value)
    return MeteredUsage(meter_no=meter.meter_no, quantity=whole, groups=(), quantities=tuple(values))
