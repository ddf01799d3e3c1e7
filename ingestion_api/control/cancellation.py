"""Cancelling a subscription: now, at the end of the period that is paid for, or at an instant to come. And taking
that back."""

from datetime import datetime
from typing import Literal

from starlette.responses import Response

from infra.postgres import lifecycle as store
from infra.postgres import subscriptions
from infra.postgres.pool import PgConnection
from ingestion_api.context import FromContext
from ingestion_api.control.lifecycle import ChangedView, change
from ingestion_api.control.phases import next_bill_of, waits
from ingestion_api.control.subscription_terms import with_cancellation
from ingestion_api.control.subscription_view import Account
from ingestion_api.control.when import When, instant_of
from ingestion_api.fields import Body
from ingestion_api.idempotency import AdminCall
from ingestion_api.routing import house_router
from pricing.terms import read_terms
from schemas.errors import Conflict, Reject

router = house_router("subscriptions")


class CancelBody(Body):
    """`proration` says whether the unused part of fees paid in advance is credited. The closing invoice is made at that
    instant, so `invoice` is always `now`. `preview` changes nothing."""

    at: When
    proration: Literal["none", "prorate"] = "none"
    invoice: Literal["now"] = "now"
    preview: bool = False


@router.post("/v1/subscriptions/{subscription}/cancel", response_model=ChangedView, operation_id="cancel_subscription")
def cancel_subscription(subscription: str, body: CancelBody, call: AdminCall, context: FromContext) -> Response:
    """Cancel. Usage up to that instant is billed on a closing invoice; entitlements end with it. A later cancellation
    takes the place of an earlier one."""

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        return _cancel(connection, account, body)

    return change(
        subscription, effect, is_preview=body.preview, call=call, context=context,
        ended_code="subscription.already_canceled",
    )  # fmt: skip


def _cancel(connection: PgConnection, account: Account, body: CancelBody) -> datetime | None:
    terms = read_terms(account.billed)
    cancel_at = instant_of(body.at, terms, account.now)
    if cancel_at < account.now:
        raise Reject.at("/at", "subscription.invalid_cancel_at", "That has passed: cancel `now`, or at a time to come.")
    is_draft = account.row["status_now"] == "draft"
    if is_draft and (cancel_at <= terms.start_at or waits(account.billed)):
        subscriptions.withdraw_subscription(connection, subscription_id=account.billed.id, now=account.now)
        return None
    bill = next_bill_of(with_cancellation(account.billed, cancel_at, prorate=body.proration == "prorate"))
    subscriptions.cancel_subscription(
        connection,
        subscription_id=account.billed.id,
        cancel_at=cancel_at,
        prorate=body.proration == "prorate",
        next_bill_at=bill.at,
        usage_due=bill.usage_due,
    )
    return cancel_at


@router.delete(
    "/v1/subscriptions/{subscription}/cancellation",
    response_model=ChangedView,
    operation_id="withdraw_cancellation",
)
def withdraw_cancellation(subscription: str, call: AdminCall, context: FromContext) -> Response:
    """Take a cancellation back that has not come true: the subscription goes on as before it."""

    def effect(connection: PgConnection, account: Account) -> datetime | None:
        if account.billed.cancel_at is None:
            raise Conflict("subscription.not_canceled", "No cancellation is scheduled.")
        bill = next_bill_of(with_cancellation(account.billed, None, prorate=False))
        store.withdraw_cancellation(
            connection, subscription_id=account.billed.id, bill_at=bill.at, usage_due=bill.usage_due
        )
        return None

    return change(subscription, effect, is_preview=False, call=call, context=context)
