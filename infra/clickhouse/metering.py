"""What a batch of usage lines needs, measured together: one query of windows a meter, and the proof beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.clickhouse.client import Client
from infra.clickhouse.metered import Span, usage_totals
from infra.clickhouse.proof import prove_windows
from schemas.billing import MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry


@dataclass(slots=True)
class Measured:
    """By subscription: the usage of each line's key, and why the proof failed where it did."""

    usage: dict[str, dict[str, MeteredUsage]] = field(default_factory=dict[str, dict[str, MeteredUsage]])
    broken: dict[str, str] = field(default_factory=dict[str, str])

    def of(self, subscription_id: str) -> Mapping[str, MeteredUsage]:
        return self.usage.get(subscription_id, {})


def measure(client: Client, needs: Sequence[UsageNeed], stored_seqs: Mapping[int, int], *, prove: bool) -> Measured:
    """The usage of all needs. With `prove` the windows are compared with the raw events; see `proof`.

    `stored_seqs` must have been read before: what is stored after that is not looked at, so both sides see the same.
    """
    measured = Measured()
    for (tenant_no, meter), group in _by_meter(needs).items():
        spans = [_span(need) for need in group]
        by_group = any(need.by_group for need in group)
        usage = usage_totals(
            client, tenant_no=tenant_no, meter=meter, spans=spans, stored_seqs=stored_seqs, by_group=by_group
        )
        mismatches = (
            prove_windows(client, tenant_no=tenant_no, meter=meter, usage=usage, stored_seqs=stored_seqs)
            if prove
            else []
        )
        broken = {mismatch.span: str(mismatch) for mismatch in mismatches}
        for need, span in zip(group, spans, strict=True):
            measured.usage.setdefault(need.subscription_id, {})[need.key] = usage[span].metered(meter)
            if span in broken:
                measured.broken[need.subscription_id] = f"{need.key}: {broken[span]}"
    return measured


def _by_meter(needs: Sequence[UsageNeed]) -> dict[tuple[int, MeterEntry], list[UsageNeed]]:
    groups: dict[tuple[int, MeterEntry], list[UsageNeed]] = {}
    for need in needs:
        groups.setdefault((need.tenant_no, need.meter), []).append(need)
    return groups


def _span(need: UsageNeed) -> Span:
    return Span(customer_no=need.customer_no, start=need.period.start, end=need.period.end)
