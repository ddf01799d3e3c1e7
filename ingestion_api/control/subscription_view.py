"""Subscriptions as they are shown, and how they are found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from typing_extensions import TypedDict

from infra.postgres import outbox, subscriptions
from infra.postgres.billing import load_subscriptions
from infra.postgres.pool import PgConnection, Row
from ingestion_api.auth import Principal
from ingestion_api.clock import clock_now, clock_nows
from ingestion_api.control import discount_terms
from ingestion_api.control.discount_terms import DiscountView
from ingestion_api.control.subscription_terms import current_period, stop_of
from ingestion_api.views import ObjectView, Period
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, Phase, TrialEnd
from schemas.errors import NotFound
from schemas.money import format_amount
from schemas.topics import SystemEvent

Status = Literal["draft", "trialing", "active", "past_due", "paused", "canceled", "ended"]
TrialEndBehavior = Literal["activate", "cancel", "cancel_without_payment_method"]


class SubscribedAddonView(TypedDict):
    """An add-on of a subscription, by its key, and how many of it."""

    addon: str
    version: int
    quantity: str


class TermsView(TypedDict):
    """What is in force at a time: `plan` by its key."""

    plan: str
    plan_id: str
    plan_version: int
    quantities: dict[str, str]
    price_overrides: dict[str, dict[str, Any]]
    entitlement_overrides: dict[str, dict[str, Any]]
    addons: list[SubscribedAddonView]
    commitment: dict[str, Any] | None


class PhaseView(TermsView):
    """The terms from `starts_at` to before `ends_at` (null: for good). In a pause nothing is charged; `entitled` says
    whether features may be used."""

    starts_at: datetime
    ends_at: datetime | None
    state: Literal["past", "current", "scheduled"]
    paused: bool
    entitled: bool


class SubscriptionView(ObjectView, TermsView):
    """A subscription. `customer` is its external_id; the terms are those in force now, or at its start until then.
    `phases` are all that there were, are and are scheduled, in their order. `past_due_since`: of the first invoice that
    is overdue; its features are refused from `blocked_at` on, if the schedule of dunning says so."""

    object: Literal["subscription"]
    customer: str
    customer_id: str
    status: Status
    currency: str
    timezone: str
    start_at: datetime
    billing_anchor: datetime
    alignment: Literal["anniversary", "calendar"]
    discounts: list[DiscountView]
    phases: list[PhaseView]
    current_period: Period | None
    trial_end_at: datetime | None
    trial_end_behavior: TrialEndBehavior
    end_at: datetime | None
    cancel_at: datetime | None
    canceled_at: datetime | None
    past_due_since: datetime | None
    blocked_at: datetime | None
    next_bill_at: datetime | None
    invoice_threshold: str | None
    parked_reason: str | None
    test_clock: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A subscription twice: its row, with the status at `now`, and what billing knows of it. `now` is what its customer
    takes for now: that of a test clock, or the real one."""

    row: Row
    billed: BilledSubscription
    now: datetime


def to_view(account: Account) -> SubscriptionView:
    """The subscription as it is at its now."""
    row, now = account.row, account.now
    is_canceled = row["status_now"] == "canceled"
    period = None if is_canceled else current_period(read_terms(account.billed), now)
    threshold = account.billed.invoice_threshold
    return {
        "object": "subscription",
        "id": row["id"],
        "customer": row["external_id"],
        "customer_id": row["customer_id"],
        "status": row["status_now"],
        **_to_terms(account.billed.phase_at(now)),
        "currency": row["currency"],
        "timezone": row["timezone"],
        "start_at": row["start_at"],
        "billing_anchor": row["billing_anchor"],
        "alignment": row["alignment"],
        "discounts": [discount_terms.to_view(each) for each in row["discounts"]],
        "phases": list(_to_phases(account.billed, now)),
        "current_period": None if period is None else {"start": period.start, "end": period.end},
        "trial_end_at": row["trial_end_at"],
        "trial_end_behavior": row["trial_end_behavior"],
        "end_at": row["end_at"],
        "cancel_at": row["cancel_at"],
        "canceled_at": _canceled_at(row) if is_canceled else None,
        "past_due_since": row["past_due_since"],
        "blocked_at": row["blocked_at"],
        "next_bill_at": row["next_bill_at"],
        "invoice_threshold": None if threshold is None else format_amount(threshold, row["currency"]),
        "parked_reason": row["parked_reason"],
        "test_clock": row["test_clock_id"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def _canceled_at(row: Row) -> datetime | None:
    """When one that is canceled was: as somebody said, or at the end of its trial."""
    trial_end = row["trial_end_at"]
    known = [row["cancel_at"], trial_end if row["trial_end_behavior"] == TrialEnd.CANCEL else None]
    return min((at for at in known if at is not None), default=trial_end)


def _to_terms(phase: Phase) -> TermsView:
    return {
        "plan": phase.plan_key,
        "plan_id": phase.plan_id,
        "plan_version": phase.plan_version,
        "quantities": phase.quantities,
        "price_overrides": phase.price_overrides,
        "entitlement_overrides": phase.entitlement_overrides,
        "addons": [
            {"addon": each["addon"], "version": each["version"], "quantity": each["quantity"]} for each in phase.addons
        ],
        "commitment": phase.commitment,
    }


def _to_phases(subscription: BilledSubscription, now: datetime) -> Iterator[PhaseView]:
    """Those that have a length: of two that start together only the later one ever is in force."""
    timeline = subscription.timeline
    stop = stop_of(subscription)
    for phase, following in zip(timeline, [*timeline[1:], None], strict=True):
        ends = [end for end in (stop, following and following.starts_at) if end is not None]
        ends_at = min(ends, default=None)
        if ends_at is not None and ends_at <= phase.starts_at:
            continue
        past = ends_at is not None and ends_at <= now
        yield {
            **_to_terms(phase),
            "starts_at": phase.starts_at,
            "ends_at": ends_at,
            "state": "past" if past else "current" if phase.starts_at <= now else "scheduled",
            "paused": phase.is_paused,
            "entitled": not phase.is_paused or phase.keeps_entitlements,
        }


def find(
    connection: PgConnection, tenant_id: str, subscription_id: str, now: datetime, *, hold: bool = False
) -> Account:
    """The tenant's subscription; with `hold` its clock, if it has one, stands still. Raises NotFound."""
    row = subscriptions.load_subscription(connection, tenant_id=tenant_id, subscription_id=subscription_id, now=now)
    if row is None:
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    if hold and row["test_clock_id"] is not None:
        clock_now(connection, row["test_clock_id"], now, hold=True)
        return find(connection, tenant_id, subscription_id, now)
    return load_accounts(connection, [row], now)[0]


def load_accounts(connection: PgConnection, rows: Sequence[Row], now: datetime) -> list[Account]:
    """The same subscriptions as billing knows them, in the same order."""
    billed = {each.id: each for each in load_subscriptions(connection, [row["id"] for row in rows])}
    nows = clock_nows(connection, [row["test_clock_id"] for row in rows], now)
    return [Account(row=row, billed=billed[row["id"]], now=nows[row["test_clock_id"]]) for row in rows]


def tell(
    connection: PgConnection, principal: Principal, event: SystemEvent, view: SubscriptionView, now: datetime
) -> None:
    """Write the system event of a change."""
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
