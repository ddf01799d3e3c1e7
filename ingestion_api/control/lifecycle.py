"""How every change of a subscription is done: looked up and locked, changed, its next bill found again, entitlements
and flows told, all in one transaction. A preview does the very same, and takes it back."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from starlette.responses import Response

from infra.postgres import subscriptions
from infra.postgres.pool import PgConnection
from ingestion_api.context import Context
from ingestion_api.control import preview
from ingestion_api.control.grants import entitle
from ingestion_api.control.invoice_views import InvoiceView
from ingestion_api.control.subscription_view import Account, SubscriptionView, find, tell, to_view
from ingestion_api.idempotency import Call
from pricing.statements import unbilled_at
from pricing.terms import read_terms
from schemas.billing import BilledSubscription
from schemas.errors import Conflict, NotFound
from schemas.topics import SystemEvent

#: Changes a subscription inside the transaction; gives the instant whose invoice a preview shows (None: no invoice).
Effect = Callable[[PgConnection, Account], datetime | None]

ENDED = frozenset({"canceled", "ended"})


class ChangedView(SubscriptionView):
    """The subscription after a change. `preview` says that nothing has been changed; `invoice` is then the one on which
    the change would stand, with the usage so far, as it would be issued."""

    preview: bool
    invoice: InvoiceView | None


def change(
    subscription_id: str, effect: Effect, *, is_preview: bool, call: Call, context: Context,
    ended_code: str = "subscription.ended",
) -> Response:  # fmt: skip
    """Do it and answer with a ChangedView, or show what it would do. Raises NotFound, and Conflict `ended_code`."""

    def apply(connection: PgConnection) -> tuple[datetime | None, Account]:
        account = find_locked(connection, subscription_id, call)
        if account.row["status_now"] in ENDED:
            raise Conflict(ended_code, f"The subscription is {account.row['status_now']} already.")
        at = effect(connection, account)
        return at, find(connection, call.tenant_id, subscription_id, max(call.now, account.now))

    def perform(connection: PgConnection) -> dict[str, Any]:
        _, account = apply(connection)
        view = to_view(account)
        withdrawn = account.row["status"] in ENDED
        event = SystemEvent.SUBSCRIPTION_CANCELED if withdrawn else SystemEvent.SUBSCRIPTION_UPDATED
        tell(connection, call.principal, event, view, call.now)
        entitle(connection, account)
        return {**view, "preview": False, "invoice": None}

    def show() -> dict[str, Any]:
        draft: preview.Draft | None = None
        with context.database.transaction() as connection, connection.transaction(force_rollback=True):
            at, account = apply(connection)
            view = to_view(account)
            if at is not None:
                draft = draft_at(connection, context, account.billed, at)
        invoice = None if draft is None else preview.to_view(preview.price_draft(context, draft), now=account.now)
        return {**view, "preview": True, "invoice": invoice}

    return preview.answer_unheld(call, show) if is_preview else call.perform(perform, status=200)


def find_locked(connection: PgConnection, subscription_id: str, call: Call) -> Account:
    """The subscription, which nobody else changes until we commit, no earlier than it is billed: a bill that was made
    while the request waited for the row must not make its `now` a time that has passed. Raises NotFound."""
    if not subscriptions.lock_subscription(connection, tenant_id=call.tenant_id, subscription_id=subscription_id):
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    account = find(connection, call.tenant_id, subscription_id, call.now, hold=True)
    billed_until = account.billed.billed_until
    if billed_until is None or billed_until <= account.now:
        return account
    return find(connection, call.tenant_id, subscription_id, billed_until)


def draft_at(
    connection: PgConnection, context: Context, subscription: BilledSubscription, at: datetime
) -> preview.Draft | None:
    """The invoice on which what happens at an instant will stand: the first that is not issued yet. None: there is
    none."""
    terms = read_terms(subscription)
    statement = unbilled_at(terms, at)
    if statement is None or statement.is_empty:
        return None
    return preview.make_draft(connection, context, subscription, terms, statement)
