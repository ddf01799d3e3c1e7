"""What a subscription entitles to, from the plans and add-ons of its phases: written out with every change."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from infra.postgres import features, plans
from infra.postgres.pool import PgConnection
from ingestion_api.control.phases import waits
from ingestion_api.control.subscription_terms import stop_of
from ingestion_api.control.subscription_view import Account
from ingestion_api.entitlements.terms import write_entitlements
from pricing.grants import Grant, Stretch, write_out
from pricing.periods import BillingPeriod
from schemas.billing import BilledSubscription, Phase
from schemas.money import EXACT, format_decimal

PLAN = "plan"

#: Days of a period, about: enough to tell the shorter one.
_DAYS: Mapping[BillingPeriod, int] = {
    BillingPeriod.DAY: 1,
    BillingPeriod.WEEK: 7,
    BillingPeriod.MONTH: 30,
    BillingPeriod.QUARTER: 91,
    BillingPeriod.HALF_YEAR: 182,
    BillingPeriod.YEAR: 365,
}


def entitle(connection: PgConnection, account: Account) -> None:
    """Store what the subscription entitles to, as it now is. Call it last in the transaction."""
    subscription = account.billed
    write_entitlements(
        connection,
        write_out(list(_stretches(connection, subscription))),
        tenant_id=subscription.tenant_id,
        tenant_no=subscription.tenant_no,
        subscription_id=subscription.id,
        customer_id=subscription.customer_id,
    )


def _stretches(connection: PgConnection, subscription: BilledSubscription) -> Iterator[Stretch]:
    """The phases, each up to the next, within the life of the subscription. One that is not activated grants nothing.

    A trial that ends for want of a payment method is not cut here: there may be one by then.
    """
    if waits(subscription):
        return
    timeline = subscription.timeline
    stop = stop_of(subscription)
    granted: dict[tuple[str, int], Sequence[Mapping[str, Any]]] = {}
    for phase, following in zip(timeline, [*timeline[1:], None], strict=True):
        ends = [end for end in (stop, following and following.starts_at) if end is not None]
        is_barred = phase.is_paused and not phase.keeps_entitlements
        grants = () if is_barred else tuple(_grants(connection, phase, granted))
        yield Stretch(start=phase.starts_at, end=min(ends, default=None), grants=grants)


def _grants(
    connection: PgConnection,
    phase: Phase,
    granted: dict[tuple[str, int], Sequence[Mapping[str, Any]]],
) -> Iterator[Grant]:
    prices = [
        phase.price_overrides.get(price["key"], price)
        for price in [*phase.prices, *(each for prices in phase.addon_prices for each in prices)]
    ]
    sources = [(PLAN, phase.plan_id, phase.plan_version, Decimal(1))]
    sources += [
        (each["addon_id"], each["addon_id"], each["version"], Decimal(each["quantity"])) for each in phase.addons
    ]
    for source, plan_id, version, quantity in sources:
        if (plan_id, version) not in granted:
            granted[plan_id, version] = plans.load_entitlements(connection, plan_id=plan_id, version=version)
        entitlements = granted[plan_id, version]
        if source == PLAN:
            entitlements = [{**each, **phase.entitlement_overrides.get(each["feature"], {})} for each in entitlements]
        meters = features.load_meter_keys(connection, feature_ids=[each["feature_id"] for each in entitlements])
        for each in entitlements:
            period, count = reset_period(prices, meters.get(each["feature_id"]))
            yield Grant(
                feature_id=each["feature_id"],
                source=source,
                limit=_times(each.get("limit"), quantity),
                rollover_max=_times(each.get("rollover_max"), quantity),
                reset=each.get("reset"),
                enforcement=each.get("enforcement"),
                value=each.get("value"),
                billing_period=period,
                billing_period_count=count,
            )


def _times(limit: str | None, quantity: Decimal) -> str | None:
    return None if limit is None else format_decimal(EXACT.multiply(Decimal(limit), quantity))


def reset_period(prices: Sequence[Mapping[str, Any]], meter: str | None) -> tuple[BillingPeriod, int]:
    """Which billing period resets a limit on a meter: that of the meter's own price, else the shortest of these
    prices; `once` (never) when nothing recurs."""
    recurring = [price for price in prices if price["billing_period"] != BillingPeriod.ONCE]
    own = [price for price in recurring if meter is not None and price.get("meter") == meter]
    candidates = own or recurring
    if not candidates:
        return BillingPeriod.ONCE, 1
    return min(map(_period_of, candidates), key=lambda period: _DAYS[period[0]] * period[1])


def _period_of(price: Mapping[str, Any]) -> tuple[BillingPeriod, int]:
    return BillingPeriod(price["billing_period"]), price["billing_period_count"]
