"""Adjustments: usage that was billed and has changed since, by late events or by events that were taken back.

What is measured now is priced by the price that the lines have, as if it were billed for the first time; the line of an
adjustment is the difference. The commitments of statements that are billed are not reckoned again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pricing.charges import PlanPrice, Price, parse_plan_price
from pricing.explain import ZERO, ExplainRow
from pricing.invoices import AmountLine
from pricing.metered import billed_quantity, detail_of, usage_of
from pricing.rating import rate
from pricing.statements import Statement
from pricing.terms import Terms, is_usage
from schemas.billing import BilledSubscription, BilledUsage, MeteredUsage, UsageNeed, Watched
from schemas.catalogue import MeterEntry
from schemas.money import currency_exponent, exactly, from_minor, round_half_away


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """A difference to what was billed. `quantity` is the difference too; `line` is what the invoice adds."""

    billed: BilledUsage
    quantity: Decimal
    line: AmountLine


def watch(
    subscription: BilledSubscription,
    terms: Terms,
    statement: Statement,
    meters: Mapping[tuple[str, str], MeterEntry],
) -> Watched | None:
    """What is to be looked at again beside a statement: of one without usage too, for that of a plan before may still
    come. None when no usage was billed before."""
    if subscription.billed_until is None or not (statement.has_usage or subscription.billed_seqs):
        return None
    keys = {price.meter for phase in terms.phases for price in phase.prices if is_usage(price)}
    found = (meters.get((subscription.tenant_id, key)) for key in keys if key is not None)
    return Watched(
        subscription_id=subscription.id,
        customer_no=subscription.customer_no,
        meters=tuple(meter for meter in found if meter is not None),
        until=subscription.billed_until,
        seqs={int(shard): seq for shard, seq in (subscription.billed_seqs or {}).items()},
    )


def adjustment_needs(
    subscription: BilledSubscription, billed: Sequence[BilledUsage], meters: Mapping[int, MeterEntry]
) -> list[UsageNeed]:
    """What must be measured again, under names of its own. Raises what `metered` raises."""
    needs: list[UsageNeed] = []
    for place, each in enumerate(billed):
        meter = meters[each.meter_no]
        price = _price_of(each, subscription.currency)
        detail = detail_of(price.price, meter.aggregation, each.period, subscription.timezone)
        needs.append(
            UsageNeed(
                subscription_id=subscription.id,
                key=_name(place),
                tenant_no=subscription.tenant_no,
                customer_no=subscription.customer_no,
                meter=meter,
                period=each.period,
                buckets=detail.buckets,
                each=detail.each,
            )
        )
    return needs


def adjustments(billed: Sequence[BilledUsage], usage: Mapping[str, MeteredUsage], currency: str) -> list[Adjustment]:
    """The differences to what was billed, those that are not zero. `usage` as `adjustment_needs` has named it.

    Raises Reject as `price_statement` does.
    """
    found = (_adjust(each, usage[_name(place)], currency) for place, each in enumerate(billed))
    return [each for each in found if each.line.amount or each.quantity]


@exactly
def _adjust(billed: BilledUsage, metered: MeteredUsage, currency: str) -> Adjustment:
    price = _price_of(billed, currency).price
    return Adjustment(
        billed=billed,
        quantity=billed_quantity(price, metered) - billed.quantity,
        line=difference(price, metered, billed, currency, is_committed=False),
    )


@exactly
def difference(
    price: Price, metered: MeteredUsage, billed: BilledUsage, currency: str, *, is_committed: bool
) -> AmountLine:
    """What usage costs by a price, rounded, less what was billed of it. `is_committed`: it counts towards the
    commitment of the invoice."""
    explanation = rate(price, usage_of(price, metered))
    rounded = round_half_away(explanation.total, currency_exponent(currency))
    before = from_minor(billed.amount_minor, currency)
    rows = [*explanation.rows]
    if rounded != explanation.total:
        rows.append(ExplainRow("rounded", None, None, rounded - explanation.total))
    rows.append(ExplainRow("less what was billed before", None, None, ZERO - before))
    return AmountLine(amount=rounded - before, explain=rows, key=billed.key, is_committed=is_committed)


def without_open(billed: Sequence[BilledUsage], terms: Terms, statement: Statement) -> list[BilledUsage]:
    """What was billed of other periods than those of the statement's own lines and those that run on after it: their
    lines bill the rest of theirs."""
    open_periods = {(line.price.key, line.period.start) for line in statement.lines if line.is_usage}
    is_over = terms.stop_at is not None and terms.stop_at <= statement.at
    for run in () if is_over else terms.runs:
        if run.agreed.is_usage and run.is_open_at(statement.at):
            start = run.start if run.grid is None else max(run.grid.containing(statement.at).start, run.start)
            open_periods.add((run.price.key, start))
    return [each for each in billed if (each.key, each.period.start) not in open_periods]


def _price_of(billed: BilledUsage, currency: str) -> PlanPrice:
    return parse_plan_price(billed.price, currency=currency)


def _name(place: int) -> str:
    return f"/late/{place}"  # no price has a key that begins so
