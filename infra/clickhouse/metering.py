"""What a batch of usage lines needs, measured together, and the proof beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.proof import prove_windows
from infra.clickhouse.usage import usage_totals
from infra.clickhouse.usage_query import Span, SpanUsage
from schemas.billing import GroupQuantity, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry


@dataclass(slots=True)
class Measured:
    """By subscription: the usage of each line's key, and why the proof failed where it did."""

    usage: dict[str, dict[str, MeteredUsage]] = field(default_factory=dict[str, dict[str, MeteredUsage]])
    broken: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, subscription_id: str) -> Mapping[str, MeteredUsage]:
        return self.usage.get(subscription_id, {})


def measure(client: Client, needs: Sequence[UsageNeed], stored_seqs: Mapping[int, int] | None = None) -> Measured:
    """The usage of all needs. With `stored_seqs` the windows are compared with the raw events; see `proof`."""
    measured = Measured()
    for tenant_no in sorted({need.tenant_no for need in needs}):
        own = [need for need in needs if need.tenant_no == tenant_no]
        meters = {need.meter.meter_no: need.meter for need in own}
        spans = [_span(need) for need in own]
        totals = usage_totals(client, tenant_no=tenant_no, meters=meters, spans=spans)
        broken: dict[Span, str] = {}
        if stored_seqs is not None:
            for meter in meters.values():
                of_meter = sorted({span for span in spans if span.meter_no == meter.meter_no}, key=_place)
                broken |= prove_windows(
                    client, tenant_no=tenant_no, meter=meter, spans=of_meter, stored_seqs=stored_seqs
                )
        for need, span in zip(own, spans, strict=True):
            measured.usage.setdefault(need.subscription_id, {})[need.key] = _metered(need.meter, totals[span])
            if span in broken:
                measured.broken[need.subscription_id] = f"{need.key}: {broken[span]}"
    return measured


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
    """Groups in a fixed order; a text is `=` and the value, or empty for a missing property."""
    return MeteredUsage(
        meter_no=meter.meter_no,
        quantity=Decimal(0) if usage.whole is None else usage.whole,
        groups=tuple(
            GroupQuantity(
                group={name: text[1:] if text else None for name, text in zip(meter.group_by, texts, strict=True)},
                quantity=quantity,
            )
            for texts, quantity in sorted(usage.groups.items())
        ),
    )
