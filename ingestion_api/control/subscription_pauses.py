"""Pausing and resuming: meanwhile nothing is charged, metered for money or entitled to. And letting a draft begin."""

from dataclasses import replace
from datetime import datetime
from typing import Literal

from starlette.responses import Response

from infra.postgres import lifecycle as store
from infra.postgres.pool import PgConnection
from ingestion_api.context import FromContext
from ingestion_api.control.lifecycle import ChangedView, change
from ingestion_api.control.new_subscription import status_of
from ingestion_api.control.phases import Timing, contract_of, next_bill_of, put_phase, to_phase, waits
from ingestion_api.control.subscription_terms import check_terms, trial_end_of
from ingestion_api.control.subscription_view import Account
from ingestion_api.control.when import NOW, When, check_not_billed, check_within, instant_of, refused
from ingestion_api.fields import Body, Instant
from ingestion_api.idempotency import AdminCall
from ingestion_api.routing import house_router
from pricing.periods import zone
from pricing.terms import read_terms
from schemas.billing import BilledSubscription
from schemas.errors import Conflict, Reject

router = house_router("subscriptions")


class PauseBody(Body):
    """With `proration` the unused rest of fees paid in advance is credited. `resume_at` lets it resume by itself, as
    `/resume` at that instant would. Changes scheduled for later than `at` are replaced. `entitlements`: whether
    features may be used meanwhile (`keep`) or not."""

    at: When = NOW
    resume_at: Instant | None = None
    proration: Literal["prorate", "none"] = "prorate"
    invoice: Literal["now", "next"] = "next"
    entitlements: Literal["none", "keep"] = "none"
    preview: bool = False


class ResumeBody(Body):
    """With `proration` the rest of the running period is charged; without, fees begin with the next one."""

    at: When = NOW
    proration: Literal["prorate", "none"] = "prorate"
    invoice: Literal["now", "next"] = "next"
    preview: bool = False


class ActivateBody(Body):
    """`start_at`: when it begins; the draft's own start when that is to come, else now. Trial and anchor move along."""

    start_at: Instant | None = None
    preview: bool = False


@router.post("/v1/subscriptions/{subscription}/pause", response_model=ChangedView, operation_id="pause_subscription")
def pause_subscription(
    subscription: str, call: AdminCall, context: FromContext, body: PauseBody | None = None
) -> Response:
    """Pause from an instant on. Usage in a pause is not billed, and features are `subscription_inactive` unless its
    entitlements are kept; the billing periods run on."""
    how = body or PauseBody()

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        terms = read_terms(account.billed)
        at = instant_of(how.at, terms, account.now)
        check_not_draft(account)
        check_within(at, terms)
        check_not_billed(at, terms)
        if account.billed.phase_at(at).is_paused:
            raise refused("/at", "subscription.already_paused", "The subscription is paused then already.")
        if how.resume_at is not None:
            if how.resume_at <= at:
                raise Reject.at("/resume_at", "subscription.invalid_resume_at", "Must be later than the pause.")
            check_within(how.resume_at, terms, "/resume_at")
        paused = _put(connection, account, account.billed, at, how, is_paused=True)
        if how.resume_at is not None:
            _put(connection, account, paused, how.resume_at, how, is_paused=False)
        return at

    return change(subscription, effect, is_preview=how.preview, call=call, context=context)


@router.post("/v1/subscriptions/{subscription}/resume", response_model=ChangedView, operation_id="resume_subscription")
def resume_subscription(
    subscription: str, call: AdminCall, context: FromContext, body: ResumeBody | None = None
) -> Response:
    """Resume from an instant on, on the terms from before the pause. The anchor stays where it was."""
    how = body or ResumeBody()

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        terms = read_terms(account.billed)
        at = instant_of(how.at, terms, account.now)
        check_within(at, terms)
        check_not_billed(at, terms)
        if not account.billed.phase_at(at).is_paused:
            raise refused("/at", "subscription.not_paused", "The subscription is not paused then.")
        _put(connection, account, account.billed, at, how, is_paused=False)
        return at

    return change(subscription, effect, is_preview=how.preview, call=call, context=context)


def _put(
    connection: PgConnection, account: Account, subscription: BilledSubscription, at: datetime,
    body: PauseBody | ResumeBody, *, is_paused: bool,
) -> BilledSubscription:  # fmt: skip
    """One more phase, of the terms in force at the instant."""
    contract = contract_of(connection, subscription, subscription.phase_at(at))
    timing = Timing(at=at, prorate=body.proration == "prorate", invoice_now=body.invoice == "now")
    keeps = is_paused and isinstance(body, PauseBody) and body.entitlements == "keep"
    phase = to_phase(contract, timing, is_paused=is_paused, keeps_entitlements=keeps)
    return put_phase(connection, subscription, phase, now=account.now)


def check_not_draft(account: Account) -> None:
    """Raises Conflict for a subscription that has not begun."""
    if account.row["status_now"] == "draft":
        raise Conflict("subscription.not_started", "The subscription has not begun.")


@router.post(
    "/v1/subscriptions/{subscription}/activate", response_model=ChangedView, operation_id="activate_subscription"
)
def activate_subscription(
    subscription: str, call: AdminCall, context: FromContext, body: ActivateBody | None = None
) -> Response:
    """Let a draft begin: from now on it is billed and entitles."""
    how = body or ActivateBody()

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        if not waits(account.billed):
            raise Conflict("subscription.not_draft", "The subscription is no draft that waits to be activated.")
        subscription = begun(account.billed, how.start_at, account.now)
        check_terms(subscription, now=account.now)
        bill = next_bill_of(subscription)
        store.activate(connection, subscription, bill_at=bill.at, usage_due=bill.usage_due)
        return bill.at

    return change(subscription, effect, is_preview=how.preview, call=call, context=context)


def begun(draft: BilledSubscription, start_at: datetime | None, now: datetime) -> BilledSubscription:
    """The subscription that a draft becomes. Later phases stay where they are; those that would start before it, or
    with it, are passed by save the last of them."""
    start = start_at or max(draft.start_at, now)
    trial_end = None
    if draft.trial_end_at is not None:
        tz = zone(draft.timezone)
        days = draft.trial_end_at.astimezone(tz).date() - draft.start_at.astimezone(tz).date()
        trial_end = trial_end_of(start, days.days, draft.timezone)
    has_own_anchor = draft.billing_anchor not in (draft.start_at, draft.trial_end_at)
    first = draft.phase_at(start)
    later = [phase for phase in draft.timeline if phase.starts_at > start]
    return replace(
        draft,
        status=status_of(start, trial_end, now),
        start_at=start,
        billing_anchor=draft.billing_anchor if has_own_anchor else trial_end or start,
        trial_end_at=trial_end,
        phases=(replace(first, starts_at=start), *later),
    )
