"""Wallets: money promised to a customer, which pays its invoices. One a customer and currency."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.responses import Response

from infra.postgres import outbox
from infra.postgres.pool import PgConnection, Row
from infra.postgres.wallets import rows
from infra.postgres.wallets.save import due_at, is_low, save_wallets
from infra.postgres.wallets.state import OpenWallet, look_at_wallets, make_wallet, open_wallet, open_wallets
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Reader
from ingestion_api.clock import Now, clock_now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.wallet_live import running_cost
from ingestion_api.control.wallet_terms import (
    AutoTopUpBody,
    AutoTopUpView,
    auto_top_up_view,
    format_minor,
    read_auto_top_up,
    read_minor,
)
from ingestion_api.fields import (
    MAX_EXTERNAL_ID_LENGTH,
    Body,
    Currency,
    DecimalText,
    Metadata,
    MetadataChange,
    Name,
    Reference,
    merge_metadata,
)
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from pricing.wallets import catch_up
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import EXACT, format_amount, from_minor
from schemas.topics import SystemEvent

router = house_router("wallets")


class WalletBody(Body):
    """`currency`: absent, the customer's. `allow_negative`: it pays invoices even with what it does not hold.
    `low_balance_threshold`: a balance that falls below it is told by `wallet.balance_low`."""

    customer: Reference
    currency: Currency | None = None
    name: Name | None = None
    allow_negative: bool = False
    low_balance_threshold: DecimalText | None = None
    auto_top_up: AutoTopUpBody | None = None
    metadata: Metadata


class WalletChange(Body):
    """What is absent stays as it is; null empties what may be empty."""

    name: Name | None = None
    allow_negative: bool | None = None
    low_balance_threshold: DecimalText | None = None
    auto_top_up: AutoTopUpBody | None = None
    metadata: MetadataChange


class WalletView(ObjectView):
    """A wallet. `balance` is what its grants hold now, less what it owes. `live_balance` is that less what the usage
    that is not invoiced yet costs so far; null in lists, and for a customer of more than 100 subscriptions."""

    object: Literal["wallet"]
    customer: str
    customer_id: str
    currency: str
    name: str
    balance: str
    live_balance: str | None
    allow_negative: bool
    low_balance_threshold: str | None
    auto_top_up: AutoTopUpView | None


def to_view(row: Row, balance_minor: int, live_balance: str | None = None) -> WalletView:
    currency = row["currency"]
    low = row["low_balance_minor"]
    return {
        "object": "wallet",
        "id": row["id"],
        "customer": row["external_id"],
        "customer_id": row["customer_id"],
        "currency": currency,
        "name": row["name"],
        "balance": format_minor(balance_minor, currency),
        "live_balance": live_balance,
        "allow_negative": row["allow_negative"],
        "low_balance_threshold": None if low is None else format_minor(low, currency),
        "auto_top_up": auto_top_up_view(row["auto_top_up"], currency),
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, wallet_id: str) -> Row:
    """The tenant's wallet. Raises NotFound."""
    row = rows.load_wallet(connection, tenant_id=tenant_id, wallet_id=wallet_id)
    if row is None:
        raise _unknown(wallet_id)
    return row


def find_open(
    connection: PgConnection, tenant_id: str, wallet_id: str, real_now: datetime
) -> tuple[OpenWallet, datetime]:
    """The tenant's wallet, locked, and its customer's now, up to which everything due has been done (not yet saved).

    Raises NotFound.
    """
    row = find(connection, tenant_id, wallet_id)
    now = clock_now(connection, row["test_clock_id"], real_now, hold=True)
    wallet = open_wallet(connection, tenant_id=tenant_id, wallet_id=wallet_id)
    assert wallet is not None
    wallet.postings += catch_up(wallet.state, now)
    return wallet, now


def _unknown(wallet_id: str) -> NotFound:
    return NotFound("wallet.not_found", f"There is no wallet {wallet_id!r}.")


@router.post("/v1/wallets", status_code=201, response_model=WalletView, operation_id="create_wallet")
def create_wallet(body: WalletBody, call: AdminCall) -> Response:
    """Open a customer's wallet in a currency. One that credit of an invoice has made by itself is opened as it is."""

    def effect(connection: PgConnection) -> WalletView:
        customer = find_customer(connection, call.tenant_id, body.customer)
        check_not_archived(customer)
        now = clock_now(connection, customer["test_clock_id"], call.now, hold=True)
        wallet = _open_new(connection, customer, _currency_of(customer, body.currency), now)
        currency = wallet.row["currency"]
        wallet.row |= {
            "is_opened": True,
            "name": body.name or currency,
            "allow_negative": body.allow_negative,
            "low_balance_minor": _threshold(body.low_balance_threshold, currency),
            "auto_top_up": None if body.auto_top_up is None else read_auto_top_up(body.auto_top_up, currency),
            "metadata": body.metadata,
        }
        view = _store(connection, wallet, now)
        _tell(connection, call.tenant_id, SystemEvent.WALLET_CREATED, view, call.now)
        return view

    return call.perform(effect)


def _open_new(connection: PgConnection, customer: Row, currency: str, now: datetime) -> OpenWallet:
    wallet = open_wallets(connection, [customer["id"]]).get((customer["id"], currency))
    if wallet is None:
        return make_wallet(
            wallet_id=new_id(Prefix.WALLET),
            customer=customer,
            currency=currency,
            name=currency,
            is_opened=True,
            now=now,
        )
    if wallet.row["is_opened"]:
        raise Conflict("wallet.already_exists", f"The customer has a wallet in {currency} already: {wallet.state.id}.")
    return wallet


def _currency_of(customer: Row, given: str | None) -> str:
    currency = given or customer["currency"]
    if currency is None:
        raise Reject.at("/currency", "wallet.missing_currency", "The customer has no currency; name one.")
    return currency


def _threshold(text: str | None, currency: str) -> int | None:
    return None if text is None else read_minor(text, currency, "/low_balance_threshold", zero=True)


def _store(connection: PgConnection, wallet: OpenWallet, now: datetime) -> WalletView:
    """Write a locked wallet's settings. A balance that is low by a new threshold has not crossed it: nobody is told."""
    wallet.postings += catch_up(wallet.state, now)
    wallet.row["is_low"] = is_low(wallet)
    save_wallets(connection, [wallet], now=now)
    row = wallet.row
    rows.update_wallet(
        connection,
        wallet_id=wallet.state.id,
        name=row["name"],
        allow_negative=row["allow_negative"],
        low_balance_minor=row["low_balance_minor"],
        is_low=row["is_low"],
        auto_top_up=row["auto_top_up"],
        metadata=row["metadata"],
        due_at=due_at(wallet, now),
    )
    return to_view(row, wallet.state.balance_minor)


@router.get("/v1/wallets", response_model=ListView[WalletView], operation_id="list_wallets")
def list_wallets(
    principal: Reader,
    context: FromContext,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    currency: Annotated[str | None, Query(max_length=3)] = None,
) -> Response:
    """The tenant's wallets, newest first."""
    before_id = check_cursor(starting_after, Prefix.WALLET)
    with context.database.transaction() as connection:
        owner = None if customer is None else find_customer(connection, principal.tenant_id, customer)
        found = rows.list_wallets(
            connection,
            tenant_id=principal.tenant_id,
            customer_id=None if owner is None else owner["id"],
            currency=currency,
            before_id=before_id,
            limit=limit + 1,
        )
        balances = {row["id"]: balance_now(connection, row, now) for row in found}
    return answer(page(found, limit, lambda row: to_view(row, balances[row["id"]])))


@router.get("/v1/wallets/{wallet}", response_model=WalletView, operation_id="get_wallet")
def get_wallet(wallet: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """One wallet, with its live balance."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, wallet)
        at = clock_now(connection, row["test_clock_id"], now)
        balance_minor = balance_now(connection, row, now)
    cost = running_cost(context, row, at)
    currency = row["currency"]
    live = None if cost is None else format_amount(EXACT.subtract(from_minor(balance_minor, currency), cost), currency)
    return answer(to_view(row, balance_minor, live))


def balance_now(connection: PgConnection, row: Row, real_now: datetime) -> int:
    """The balance with everything done that is due by now, though nothing may have done it yet."""
    [wallet] = look_at_wallets(connection, [row])
    catch_up(wallet.state, clock_now(connection, row["test_clock_id"], real_now))
    return wallet.state.balance_minor


@router.patch("/v1/wallets/{wallet}", response_model=WalletView, operation_id="update_wallet")
def update_wallet(wallet: str, body: WalletChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change what is given."""
    with context.database.transaction() as connection:
        found, at = find_open(connection, principal.tenant_id, wallet, now)
        _change(body, found)
        view = _store(connection, found, at)
        _tell(connection, principal.tenant_id, SystemEvent.WALLET_UPDATED, view, now)
        return answer(view)


def _change(body: WalletChange, wallet: OpenWallet) -> None:
    row, given, currency = wallet.row, body.model_fields_set, wallet.row["currency"]
    changed: dict[str, Any] = {"is_opened": True}
    if "name" in given:
        changed["name"] = body.name or currency
    if "allow_negative" in given:
        if not body.allow_negative and wallet.state.overdraft_minor:
            raise Conflict("wallet.is_negative", "The wallet is below zero; fill it first.")
        changed["allow_negative"] = bool(body.allow_negative)
    if "low_balance_threshold" in given:
        changed["low_balance_minor"] = _threshold(body.low_balance_threshold, currency)
    if "auto_top_up" in given:
        changed["auto_top_up"] = None if body.auto_top_up is None else read_auto_top_up(body.auto_top_up, currency)
    changed["metadata"] = merge_metadata(row["metadata"], body.metadata)
    row |= changed


def _tell(connection: PgConnection, tenant_id: str, event: SystemEvent, view: WalletView, now: datetime) -> None:
    outbox.append(connection, tenant_id=tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
