"""The timeline of a subscription as changes write it: one more phase, and what is billed next under it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from infra.postgres import subscriptions
from infra.postgres.pool import PgConnection
from infra.postgres.thresholds import usage_billed_until
from ingestion_api.control.contracts import Contract, load_addons
from ingestion_api.control.versions import find as find_plan
from ingestion_api.control.when import refused
from pricing.statements import NextBill, next_statement
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, Phase
from schemas.errors import Conflict
from schemas.instants import format_instant

MAX_PHASES = 1_000  # of one subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When a phase starts, whether fees are shared out by time there, and whether that makes an invoice of its own."""

    at: datetime
    prorate: bool = True
    invoice_now: bool = False


def contract_of(connection: PgConnection, subscription: BilledSubscription, phase: Phase) -> Contract:
    """What is agreed to in a phase."""
    tenant_id = subscription.tenant_id
    return Contract(
        plan=find_plan(connection, tenant_id, phase.plan_id, phase.plan_version),
        quantities=phase.quantities,
        price_overrides=phase.price_overrides,
        entitlement_overrides=phase.entitlement_overrides,
        addons=[
            {
                "addon": each["addon"],
                "addon_id": each["addon_id"],
                "version": each["version"],
                "quantity": each["quantity"],
            }
            for each in phase.addons
        ],
        addon_plans=load_addons(connection, phase.addons, tenant_id=tenant_id),
        commitment=phase.commitment,
    )


def to_phase(contract: Contract, timing: Timing, *, is_paused: bool = False, keeps_entitlements: bool = False) -> Phase:
    """The phase in which a contract is in force; its number and whether it is late follow from its subscription."""
    return Phase(
        no=0,
        starts_at=timing.at,
        plan_id=contract.plan["id"],
        plan_version=contract.plan["version"],
        plan_key=contract.plan["key"],
        prices=contract.plan["prices"],
        quantities=dict(contract.quantities),
        price_overrides=dict(contract.price_overrides),
        entitlement_overrides=dict(contract.entitlement_overrides),
        addons=[{**each} for each in contract.addons],
        addon_prices=[row["prices"] for row in contract.addon_plans],
        commitment=contract.commitment,
        is_paused=is_paused,
        keeps_entitlements=keeps_entitlements,
        prorate=timing.prorate,
        invoice_now=timing.invoice_now,
    )


def put_phase(
    connection: PgConnection, subscription: BilledSubscription, phase: Phase, *, now: datetime
) -> BilledSubscription:
    """Store one more phase of a subscription that is locked, in place of those that were to start after it; the
    subscription with it. Raises Conflict `subscription.too_many_changes`, and `subscription.already_billed` where
    usage of later is billed."""
    _check_usage_not_billed(connection, subscription, phase.starts_at)
    changed = subscription.with_phase(phase)
    if len(changed.phases) > MAX_PHASES:
        raise Conflict("subscription.too_many_changes", f"A subscription has at most {MAX_PHASES} phases.")
    bill = NextBill(at=None, usage_due=False) if waits(subscription) else next_bill_of(changed)
    subscriptions.save_phases(connection, changed, bill_at=bill.at, usage_due=bill.usage_due, now=now)
    return changed


def _check_usage_not_billed(connection: PgConnection, subscription: BilledSubscription, at: datetime) -> None:
    """A threshold has billed stretches of usage by the prices of then: were they cut anew, nothing would give back what
    is billed of those that are no more."""
    until = usage_billed_until(connection, subscription_id=subscription.id, since=subscription.billed_until)
    if until is not None and at < until:
        raise refused(
            "/at",
            "subscription.already_billed",
            f"Its threshold has billed usage up to {format_instant(until)}; change it from then on.",
        )


def next_bill_of(subscription: BilledSubscription) -> NextBill:
    """What a subscription's row says of its next statement."""
    statement = next_statement(read_terms(subscription))
    if statement is None:
        return NextBill(at=None, usage_due=False)
    return NextBill(at=statement.at, usage_due=statement.has_usage)


def waits(subscription: BilledSubscription) -> bool:
    """Whether it is a draft that nothing but its activation lets begin."""
    return subscription.status == "draft" and subscription.next_bill_at is None


def without_scheduled(subscription: BilledSubscription, now: datetime) -> BilledSubscription:
    """The subscription without the phases that are to start later than now; the first one stays."""
    timeline = subscription.timeline
    kept: Sequence[Phase] = [phase for phase in timeline if phase.starts_at <= now] or timeline[:1]
    return replace(subscription, phases=tuple(kept))
