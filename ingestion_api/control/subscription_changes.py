"""Changing what a subscription is for: another plan, more seats, an add-on, other prices, now or later. And taking back
what is scheduled."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from infra.postgres import lifecycle as store
from infra.postgres.pool import PgConnection
from ingestion_api.context import FromContext
from ingestion_api.control.contracts import TERMS, TermsBody, amend
from ingestion_api.control.discount_terms import MAX_DISCOUNTS, check_discounts, set_discounts
from ingestion_api.control.lifecycle import ChangedView, change
from ingestion_api.control.phases import (
    Timing,
    contract_of,
    next_bill_of,
    put_phase,
    to_phase,
    waits,
    without_scheduled,
)
from ingestion_api.control.subscription_view import Account
from ingestion_api.control.when import NOW, When, check_not_billed, check_within, instant_of, refused
from ingestion_api.idempotency import AdminCall
from ingestion_api.routing import house_router
from pricing.statements import NextBill
from pricing.terms import read_terms
from schemas.errors import Conflict, Reject

router = house_router("subscriptions")

Discounts = Annotated[list[dict[str, Any]], Field(max_length=MAX_DISCOUNTS)]


class ChangeBody(TermsBody):
    """What is absent stays as it is. `proration` says whether fees paid in advance are shared out by time, or run to
    the end of their period; `invoice` whether the lines of the change stand on an invoice of their own, made at once,
    or on the next one. Changes scheduled for later than `at` are replaced. `discounts` are all from now on."""

    at: When = NOW
    proration: Literal["prorate", "none"] = "prorate"
    invoice: Literal["now", "next"] = "next"
    discounts: Discounts | None = None
    preview: bool = False


@router.post("/v1/subscriptions/{subscription}/change", response_model=ChangedView, operation_id="change_subscription")
def change_subscription(subscription: str, body: ChangeBody, call: AdminCall, context: FromContext) -> Response:
    """Change plan, quantities, prices, add-ons or commitment from an instant on: now, at the end of the running period,
    or at a time to come. Usage of the running period stays counted."""
    check_body(body)

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        return _change(connection, account, body)

    return change(subscription, effect, is_preview=body.preview, call=call, context=context)


def check_body(body: ChangeBody) -> None:
    """Raises Reject when nothing is to be changed, or discounts later than now."""
    named = body.model_fields_set & {*TERMS, "discounts"}
    if not any(getattr(body, name) is not None for name in named) and "commitment" not in named:
        raise Reject(
            "subscription.nothing_to_change", f"Name what is to be changed: {', '.join((*TERMS, 'discounts'))}."
        )
    if body.discounts is not None:
        check_discounts(body.discounts)
        if body.at != NOW:
            raise Reject.at("/discounts", "subscription.discounts_now", "Discounts are changed now, not later.")


def _change(connection: PgConnection, account: Account, body: ChangeBody) -> datetime | None:
    subscription = account.billed
    terms = read_terms(subscription)
    at = (
        max(instant_of(body.at, terms, account.now), terms.start_at)
        if body.at == NOW
        else (instant_of(body.at, terms, account.now))
    )
    if body.discounts is not None:
        set_discounts(connection, subscription, body.discounts, now=account.now)
    if not any(name in body.model_fields_set for name in TERMS):
        return at
    check_within(at, terms)
    check_not_billed(at, terms)
    phase = subscription.phase_at(at)
    if phase.is_paused:
        raise refused("/at", "subscription.paused", "The subscription is paused then; resume it first.")
    contract = amend(connection, contract_of(connection, subscription, phase), body, tenant_id=subscription.tenant_id)
    timing = Timing(at=at, prorate=body.proration == "prorate", invoice_now=body.invoice == "now")
    put_phase(connection, subscription, to_phase(contract, timing), now=account.now)
    return at


@router.delete(
    "/v1/subscriptions/{subscription}/scheduled_changes",
    response_model=ChangedView,
    operation_id="withdraw_scheduled_changes",
)
def withdraw_scheduled_changes(subscription: str, call: AdminCall, context: FromContext) -> Response:
    """Take back all changes, pauses and resumptions that are scheduled for later. A scheduled cancellation stays."""

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        changed = without_scheduled(account.billed, account.now)
        if len(changed.phases) == len(account.billed.timeline):
            raise Conflict("subscription.nothing_scheduled", "No change is scheduled.")
        bill = NextBill(at=None, usage_due=False) if waits(account.billed) else next_bill_of(changed)
        store.drop_scheduled_phases(connection, changed, bill_at=bill.at, usage_due=bill.usage_due)
        return None

    return change(subscription, effect, is_preview=False, call=call, context=context)
