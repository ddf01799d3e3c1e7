"""What a subscription entitles to, from its plan: read, written out and stored beside every change of its terms."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from infra.postgres import features, plans
from infra.postgres.pool import PgConnection
from ingestion_api.control.subscription_view import Account
from ingestion_api.entitlements.terms import write_entitlements
from pricing.charges import PlanPrice
from pricing.grants import Grant, Stretch, write_out
from pricing.periods import BillingPeriod
from pricing.terms import Terms, is_usage, read_terms


def entitle(connection: PgConnection, account: Account) -> None:
    """Store what the subscription entitles to, as its row now is. Call it last in the transaction."""
    row, terms = account.row, read_terms(account.billed)
    plan = plans.load_plan(
        connection, tenant_id=row["tenant_id"], reference=row["plan_id"], version=row["plan_version"]
    )
    assert plan is not None
    meters = features.load_meter_keys(connection, feature_ids=[each["feature_id"] for each in plan["entitlements"]])
    grants = tuple(read_grants(plan["entitlements"], terms, meters))
    write_entitlements(
        connection,
        write_out([Stretch(start=terms.start_at, end=terms.stop_at, grants=grants)]),
        tenant_id=row["tenant_id"],
        tenant_no=row["tenant_no"],
        subscription_id=row["id"],
        customer_id=row["customer_id"],
    )


def read_grants(
    entitlements: Sequence[Mapping[str, Any]], terms: Terms, meter_of_feature: Mapping[str, str]
) -> list[Grant]:
    """A plan's entitlements, each with the billing period that its `billing_period` reset follows.

    `meter_of_feature`: the key of a metered feature's meter by feature_id.
    """
    grants: list[Grant] = []
    for each in entitlements:
        period, count = reset_period(terms, meter_of_feature.get(each["feature_id"]))
        grants.append(
            Grant(
                feature_id=each["feature_id"],
                source="plan",
                limit=each.get("limit"),
                reset=each.get("reset"),
                enforcement=each.get("enforcement"),
                value=each.get("value"),
                billing_period=period,
                billing_period_count=count,
            )
        )
    return grants


def reset_period(terms: Terms, meter: str | None) -> tuple[BillingPeriod, int]:
    """Which billing period resets a limit on a meter: that of the meter's own price, else the shortest of the
    subscription's prices; `once` (never) when nothing recurs."""
    recurring = [price for price in terms.prices if price.key in terms.grids]
    own = [price for price in recurring if is_usage(price) and price.meter == meter]
    candidates = own or recurring
    if not candidates:
        return BillingPeriod.ONCE, 1
    shortest = min(candidates, key=lambda price: _length(terms, price))
    return shortest.billing_period, shortest.billing_period_count


def _length(terms: Terms, price: PlanPrice) -> timedelta:
    period = terms.grids[price.key].containing(terms.start_at)
    return period.end - period.start
