"""Cancelling a subscription: now, at the end of the period that is paid for, or at an instant to come."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from starlette.responses import Response

from infra.postgres import subscriptions
from infra.postgres.pool import PgConnection
from ingestion_api.context import Context, FromContext
from ingestion_api.control import preview
from ingestion_api.control.grants import entitle
from ingestion_api.control.invoices import InvoiceView
from ingestion_api.control.subscription_terms import with_cancellation
from ingestion_api.control.subscription_view import Account, SubscriptionView, find, tell, to_view
from ingestion_api.fields import Body, Unsupported, read_instant
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.routing import house_router
from pricing.statements import next_statement, paid_until
from pricing.terms import Terms, read_terms
from schemas.errors import Conflict, NotFound, Reject
from schemas.topics import SystemEvent

router = house_router("subscriptions")


def check_when(text: str) -> str:
    """`now`, `period_end` or an instant. Raises ValueError."""
    if text not in ("now", "period_end"):
        read_instant(text)
    return text


class CancelBody(Body):
    """`proration` says whether the unused part of fees paid in advance is credited. `preview` changes nothing."""

    at: Annotated[
        str, Field(max_length=64, description="`now`, `period_end` or an instant."), AfterValidator(check_when)
    ]
    proration: Literal["none", "prorate"] = "none"
    preview: bool = False
    invoice: Unsupported = None


class CancelView(SubscriptionView):
    """The subscription after the cancellation. `preview` says that nothing has been changed; `invoice` is then the
    next one under it, with the usage so far: the closing one unless another comes before."""

    preview: bool
    invoice: InvoiceView | None


@router.post("/v1/subscriptions/{subscription}/cancel", response_model=CancelView, operation_id="cancel_subscription")
def cancel_subscription(subscription: str, body: CancelBody, call: AdminCall, context: FromContext) -> Response:
    """Cancel. Usage up to that instant is billed on a closing invoice; entitlements end with it."""
    if body.preview:
        return preview.answer_unheld(call, lambda: _preview(subscription, body, call, context))
    return call.perform(lambda connection: _cancel(connection, subscription, body, call), status=200)


def _cancel(connection: PgConnection, subscription_id: str, body: CancelBody, call: Call) -> CancelView:
    if not subscriptions.lock_subscription(connection, tenant_id=call.tenant_id, subscription_id=subscription_id):
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    account = _find_running(connection, subscription_id, call)
    terms = read_terms(account.billed)
    cancel_at = _instant_of(body.at, terms, call.now)
    withdrawn = account.row["status_now"] == "draft" and cancel_at <= terms.start_at
    if withdrawn:
        subscriptions.withdraw_subscription(connection, subscription_id=subscription_id, now=call.now)
    else:
        _schedule(connection, account, cancel_at, prorate=body.proration == "prorate")
    account = find(connection, call.tenant_id, subscription_id, call.now)
    view = to_view(account, call.now)
    event = SystemEvent.SUBSCRIPTION_CANCELED if withdrawn else SystemEvent.SUBSCRIPTION_UPDATED
    tell(connection, call.principal, event, view, call.now)
    entitle(connection, account)
    return {**view, "preview": False, "invoice": None}


def _find_running(connection: PgConnection, subscription_id: str, call: Call) -> Account:
    """The subscription. Raises NotFound, and Conflict when it has been canceled or has ended."""
    account = find(connection, call.tenant_id, subscription_id, call.now)
    if account.row["status_now"] in ("canceled", "ended"):
        raise Conflict("subscription.already_canceled", f"The subscription is {account.row['status_now']} already.")
    return account


def _preview(subscription_id: str, body: CancelBody, call: Call, context: Context) -> CancelView:
    """What the cancellation would make of the subscription and of its next invoice."""
    draft: preview.Draft | None = None
    with context.database.transaction() as connection:
        account = _find_running(connection, subscription_id, call)
        cancel_at = _instant_of(body.at, read_terms(account.billed), call.now)
        subscription = with_cancellation(account.billed, cancel_at, prorate=body.proration == "prorate")
        terms = read_terms(subscription)
        statement = None if cancel_at <= terms.start_at else next_statement(terms)
        if statement is not None and statement.lines:
            draft = preview.make_draft(connection, context, subscription, terms, statement)
    invoice = None if draft is None else preview.to_view(preview.price_draft(context, draft), now=call.now)
    return {**to_view(_as_canceled(account, cancel_at, call.now), call.now), "preview": True, "invoice": invoice}


def _instant_of(at: str, terms: Terms, now: datetime) -> datetime:
    if at == "now":
        return now
    if at == "period_end":
        return paid_until(terms, now)
    instant = read_instant(at)
    if instant < now:
        raise Reject.at("/at", "subscription.invalid_cancel_at", "That has passed: cancel `now`, or at a time to come.")
    return instant


def _as_canceled(account: Account, cancel_at: datetime, now: datetime) -> Account:
    status = "canceled" if cancel_at <= now else account.row["status_now"]
    billed = with_cancellation(account.billed, cancel_at, prorate=False)
    return Account(row={**account.row, "cancel_at": cancel_at, "status_now": status}, billed=billed)


def _schedule(connection: PgConnection, account: Account, cancel_at: datetime, *, prorate: bool) -> None:
    """Write the cancellation and what is billed next under it. The closing statement and the status that goes with
    it are the sweep's; so is the system event that tells of it."""
    statement = next_statement(read_terms(with_cancellation(account.billed, cancel_at, prorate=prorate)))
    subscriptions.cancel_subscription(
        connection,
        subscription_id=account.row["id"],
        cancel_at=cancel_at,
        prorate=prorate,
        next_bill_at=None if statement is None else statement.at,
        usage_due=statement is not None and statement.has_usage,
    )
