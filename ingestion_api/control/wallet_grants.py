"""What is in a wallet: its grants, how each came and went, and top-ups that a customer pays for."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.payments.providers import Provider
from infra.postgres import payments
from infra.postgres.invoice_events import copy_events
from infra.postgres.invoice_lifecycle import lock_invoice
from infra.postgres.pool import PgConnection, Row
from infra.postgres.wallets import rows
from infra.postgres.wallets.save import event_row, save_wallets
from infra.postgres.wallets.state import OpenWallet, load_grants
from infra.postgres.wallets.top_ups import make_top_up
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import Now, clock_now
from ingestion_api.context import FromContext
from ingestion_api.control import payments as payment_routes
from ingestion_api.control.wallet_terms import (
    INVALID_GRANT,
    GrantBody,
    Priority,
    format_minor,
    read_grant,
    read_minor,
)
from ingestion_api.control.wallets import find, find_open
from ingestion_api.fields import Body, DecimalText, Instant, Metadata, Name
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from pricing.wallets import catch_up, void_grant
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import from_minor
from schemas.topics import SystemEvent
from schemas.wallets import DEFAULT_PRIORITY, GrantStatus

MAX_OPEN_GRANTS = 1_000  # of one wallet: all of them are looked at whenever it pays

router = house_router("wallets")

Status = Literal["unpaid", "scheduled", "active", "depleted", "expired", "voided"]


class PaymentOfTopUp(Body):
    """Money that has come in already; `reference` is its own, e.g. that of a bank transfer."""

    reference: Annotated[str, Field(min_length=1, max_length=payments.MAX_REFERENCE_LENGTH)] | None = None


class TopUpBody(Body):
    """`payment`: it is paid already; absent, the grant waits until the invoice is paid."""

    amount: DecimalText
    priority: Priority = DEFAULT_PRIORITY
    name: Name | None = None
    expires_at: Instant | None = None
    payment: PaymentOfTopUp | None = None
    metadata: Metadata


class RecurrenceView(TypedDict):
    every: str
    anchor: datetime


class GrantView(ObjectView):
    """A grant. `granted`, `burned`, `expired` and `balance` are sums of the ledger: granted = burned + expired +
    balance. `invoice` sold it, or owed it. `status` is `depleted` when nothing is left of one that does not recur."""

    object: Literal["wallet_grant"]
    wallet: str
    kind: Literal["paid", "promotional", "credit"]
    name: str | None
    currency: str
    amount: str
    priority: int
    status: Status
    effective_at: datetime
    expires_at: datetime | None
    recurrence: RecurrenceView | None
    rollover_min: str | None
    rollover_max: str | None
    granted: str
    burned: str
    expired: str
    balance: str
    invoice: str | None
    is_automatic: bool
    voided_at: datetime | None


class EntryView(TypedDict):
    """More than 0 on `balance` (of a grant) and `overdraft`: the customer has more. The others stand against them."""

    account: Literal["balance", "overdraft", "payment", "promotion", "credit", "invoice", "expired"]
    grant: str | None
    amount: str


class TransactionView(TypedDict):
    """Its entries add up to zero; `amount` is what it changed of the balance."""

    object: Literal["wallet_transaction"]
    id: str
    wallet: str
    type: Literal["grant", "refill", "expiry", "void", "invoice", "invoice_void", "overdraft"]
    currency: str
    amount: str
    invoice: str | None
    credit_note: str | None
    entries: list[EntryView]
    occurred_at: datetime
    created_at: datetime


def to_view(row: Row, currency: str, now: datetime) -> GrantView:
    recurs = row["every"] is not None
    return {
        "object": "wallet_grant",
        "id": row["id"],
        "wallet": row["wallet_id"],
        "kind": row["kind"],
        "name": row["name"],
        "currency": currency,
        "amount": format_minor(row["amount_minor"], currency),
        "priority": row["priority"],
        "status": _status(row, now),
        "effective_at": row["effective_at"],
        "expires_at": row["expires_at"],
        "recurrence": {"every": row["every"], "anchor": row["anchor"]} if recurs else None,
        "rollover_min": format_minor(row["rollover_min_minor"], currency) if recurs else None,
        "rollover_max": format_minor(row["rollover_max_minor"], currency) if recurs else None,
        "granted": format_minor(row["granted_minor"], currency),
        "burned": format_minor(row["burned_minor"], currency),
        "expired": format_minor(row["expired_minor"], currency),
        "balance": format_minor(row["balance_minor"], currency),
        "invoice": row["invoice_id"],
        "is_automatic": row["is_automatic"],
        "voided_at": row["voided_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def _status(row: Row, now: datetime) -> Status:
    """An empty grant does not lapse in the ledger: whether it has expired follows from its time."""
    status: Status = row["status"]
    if status != "active" or row["balance_minor"] or row["every"] is not None:
        return status
    return "expired" if row["expires_at"] is not None and row["expires_at"] <= now else "depleted"


def _load_view(connection: PgConnection, wallet: Row, grant_id: str, now: datetime) -> GrantView:
    row = rows.load_grant(connection, wallet_id=wallet["id"], grant_id=grant_id)
    if row is None:
        raise NotFound("grant.not_found", f"The wallet has no grant {grant_id!r}.")
    return to_view(row, wallet["currency"], now)


@router.post(
    "/v1/wallets/{wallet}/grants", status_code=201, response_model=GrantView, operation_id="create_wallet_grant"
)
def create_wallet_grant(wallet: str, body: GrantBody, call: AdminCall) -> Response:
    """Put money into a wallet: given (`promotional`, the default) or bought elsewhere (`paid`)."""

    def effect(connection: PgConnection) -> GrantView:
        found, now = find_open(connection, call.tenant_id, wallet, call.now)
        _check_room(found)
        grant = read_grant(body, found.row["currency"], new_id(Prefix.GRANT), now)
        found.state.grants[grant.id] = grant
        found.postings += catch_up(found.state, now)
        said = {grant.id: {"name": body.name, "metadata": body.metadata}}
        save_wallets(connection, [found], now=now, metadata=said)
        view = _load_view(connection, found.row, grant.id, now)
        copy_events(connection, [event_row(found, SystemEvent.WALLET_GRANT_CREATED, {**view}, now)])
        return view

    return call.perform(effect)


def _check_room(wallet: OpenWallet) -> None:
    if len(wallet.state.grants) >= MAX_OPEN_GRANTS:
        raise Conflict("wallet.too_many_grants", f"The wallet has {MAX_OPEN_GRANTS} open grants already.")


@router.get("/v1/wallets/{wallet}/grants", response_model=ListView[GrantView], operation_id="list_wallet_grants")
def list_wallet_grants(
    wallet: str,
    principal: Reader,
    context: FromContext,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
) -> Response:
    """The grants of a wallet, newest first, as the ledger has them."""
    before_id = check_cursor(starting_after, Prefix.GRANT)
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, wallet)
        found = rows.list_grants(connection, wallet_id=row["id"], before_id=before_id, limit=limit + 1)
        at = clock_now(connection, row["test_clock_id"], now)
    return answer(page(found, limit, lambda grant: to_view(grant, row["currency"], at)))


@router.get("/v1/wallets/{wallet}/grants/{grant}", response_model=GrantView, operation_id="get_wallet_grant")
def get_wallet_grant(wallet: str, grant: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """One grant, as the ledger has it."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, wallet)
        at = clock_now(connection, row["test_clock_id"], now)
        return answer(_load_view(connection, row, grant, at))


@router.post("/v1/wallets/{wallet}/grants/{grant}/void", response_model=GrantView, operation_id="void_wallet_grant")
def void_wallet_grant(wallet: str, grant: str, call: AdminCall) -> Response:
    """Take back what a grant has left; what it has paid stays paid. It refills and starts no more."""

    def effect(connection: PgConnection) -> GrantView:
        found, now = find_open(connection, call.tenant_id, wallet, call.now)
        _load_view(connection, found.row, grant, now)
        load_grants(connection, [found], also=[grant])
        own = found.state.grants[grant]
        if own.status in (GrantStatus.VOIDED, GrantStatus.EXPIRED):
            raise Conflict("grant.is_over", f"The grant is {own.status} already.")
        if own.status is GrantStatus.UNPAID:
            raise Conflict("grant.unpaid", "The grant waits for the payment of its invoice; void that.")
        found.postings += void_grant(own, now)
        save_wallets(connection, [found], now=now)
        view = _load_view(connection, found.row, grant, now)
        copy_events(connection, [event_row(found, SystemEvent.WALLET_GRANT_VOIDED, {**view}, now)])
        return view

    return call.perform(effect, status=200)


@router.post("/v1/wallets/{wallet}/top_up", status_code=201, response_model=GrantView, operation_id="top_up_wallet")
def top_up_wallet(wallet: str, body: TopUpBody, call: AdminCall) -> Response:
    """Sell money for a wallet: an invoice at once, and a grant that takes effect when that is paid."""

    def effect(connection: PgConnection) -> GrantView:
        found, now = find_open(connection, call.tenant_id, wallet, call.now)
        _check_room(found)
        if body.expires_at is not None and body.expires_at <= now:
            raise Reject.at("/expires_at", INVALID_GRANT, "Must lie after now.")
        currency = found.row["currency"]
        amount_minor = read_minor(body.amount, currency, "/amount")
        top_up = make_top_up(
            connection,
            found,
            amount_minor=amount_minor,
            now=now,
            priority=body.priority,
            expires_at=body.expires_at,
            said={"name": body.name, "metadata": body.metadata},
        )
        if body.payment is not None:
            payment_routes.pay(
                connection,
                lock_invoice(connection, tenant_id=call.tenant_id, id_or_number=top_up.invoice_id),
                amount=from_minor(amount_minor, currency),
                provider=Provider.MANUAL,
                reference=body.payment.reference,
                metadata={},
                now=now,
            )
        return _load_view(connection, found.row, top_up.grant_id, now)

    return call.perform(effect)


@router.get(
    "/v1/wallets/{wallet}/transactions",
    response_model=ListView[TransactionView],
    operation_id="list_wallet_transactions",
)
def list_wallet_transactions(
    wallet: str,
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
) -> Response:
    """The ledger of a wallet, newest first. What stands in it never changes."""
    before_id = check_cursor(starting_after, Prefix.WALLET_TRANSACTION)
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, wallet)
        found = rows.list_transactions(connection, wallet_id=row["id"], before_id=before_id, limit=limit + 1)
        entries = rows.load_entries(connection, [each["id"] for each in found])
    return answer(page(found, limit, lambda each: _to_transaction(each, row["currency"], entries[each["id"]])))


def _to_transaction(row: Row, currency: str, entries: list[Row]) -> TransactionView:
    return {
        "object": "wallet_transaction",
        "id": row["id"],
        "wallet": row["wallet_id"],
        "type": row["type"],
        "currency": currency,
        "amount": format_minor(row["amount_minor"], currency),
        "invoice": row["invoice_id"],
        "credit_note": row["credit_note_id"],
        "entries": [
            {
                "account": entry["account"],
                "grant": entry["grant_id"],
                "amount": format_minor(entry["amount_minor"], currency),
            }
            for entry in entries
        ],
        "occurred_at": row["occurred_at"],
        "created_at": row["created_at"],
    }
