"""Top-ups: an invoice that sells money for a wallet, and a grant that waits until it is paid."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from infra.crash_points import crash_point
from infra.postgres.invoice_events import copy_events
from infra.postgres.invoice_issue import NewInvoice, issue_invoices
from infra.postgres.pool import PgConnection
from infra.postgres.wallets.save import event_row, save_wallets
from infra.postgres.wallets.state import OpenWallet
from pricing.one_off import price_one_off
from pricing.top_ups import AutoTopUp, TopUps, decide, month_of
from pricing.wallets import WalletGrant
from schemas.billing import InvoiceKind
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor
from schemas.topics import SystemEvent
from schemas.wallets import DEFAULT_PRIORITY, GrantKind, GrantStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """The invoice to be paid, and the grant that waits for it."""

    grant_id: str
    invoice_id: str


def make_top_up(
    connection: PgConnection,
    wallet: OpenWallet,
    *,
    amount_minor: int,
    now: datetime,
    priority: int = DEFAULT_PRIORITY,
    expires_at: datetime | None = None,
    is_automatic: bool = False,
    said: dict[str, Any] | None = None,
) -> TopUp:
    """Invoice a top-up of a locked wallet and save the wallet with the grant. No tax: what is bought later bears it.

    `said`: the grant's `{name, metadata}`.
    """
    currency = wallet.row["currency"]
    amount = format_amount(from_minor(amount_minor, currency), currency)
    line = {"key": "top-up", "description": f"Top-up of {wallet.row['name']}", "amount": amount}
    invoice = replace(price_one_off({"currency": currency, "lines": [line]}, now=now), kind=InvoiceKind.TOP_UP)
    new = NewInvoice(
        tenant_id=wallet.row["tenant_id"],
        customer_id=wallet.row["customer_id"],
        external_id=wallet.row["external_id"],
        subscription_id=None,
        invoice=invoice,
        as_of=None,
        is_draft=False,
    )
    [issued] = issue_invoices(connection, [new], now=now)
    crash_point("wallets.top_up_invoiced")
    grant = WalletGrant(
        id=new_id(Prefix.GRANT),
        kind=GrantKind.PAID,
        amount_minor=amount_minor,
        priority=priority,
        effective_at=now,
        expires_at=expires_at,
        status=GrantStatus.UNPAID,
        invoice_id=issued.id,
        is_automatic=is_automatic,
        is_new=True,
    )
    wallet.state.grants[grant.id] = grant
    save_wallets(connection, [wallet], now=now, metadata={grant.id: said or {}})
    grant.is_new = False
    data = {"id": grant.id, "invoice": issued.id, "amount": amount, "is_automatic": is_automatic}
    copy_events(connection, [event_row(wallet, SystemEvent.WALLET_TOP_UP_CREATED, data, now)])
    return TopUp(grant_id=grant.id, invoice_id=issued.id)


def top_up_if_low(connection: PgConnection, wallet: OpenWallet, *, now: datetime) -> TopUp | None:
    """Top a locked wallet up by its own settings, or note when to look again; it is saved in both cases."""
    wallet.is_touched = True
    decision = None
    if wallet.row["auto_top_up"] is not None:
        settings = msgspec.convert(wallet.row["auto_top_up"], AutoTopUp)
        decision = decide(
            settings,
            _load_made(connection, wallet, now),
            balance_minor=wallet.state.balance_minor,
            timezone=wallet.state.timezone,
            now=now,
        )
        wallet.top_up_at = decision.ask_at
    if decision is None or not decision.amount_minor:
        save_wallets(connection, [wallet], now=now)
        return None
    return make_top_up(connection, wallet, amount_minor=decision.amount_minor, now=now, is_automatic=True)


def _load_made(connection: PgConnection, wallet: OpenWallet, now: datetime) -> TopUps:
    start, end = month_of(now, wallet.state.timezone)
    row = connection.execute(
        # One that was given up is not waited for: nobody will pay it by himself.
        "SELECT max(g.created_at) AS last_at,"
        " coalesce(bool_or(g.status = 'unpaid' AND i.status <> 'uncollectible'), false) AS is_unpaid,"
        " coalesce(sum(g.amount_minor) FILTER (WHERE g.status <> 'voided' AND g.created_at >= %s"
        " AND g.created_at < %s), 0) AS month_minor FROM wallet_grants g JOIN invoices i ON i.id = g.invoice_id"
        " WHERE g.wallet_id = %s AND g.is_automatic",
        (start, end, wallet.state.id),
    ).fetchone()
    assert row is not None
    return TopUps(last_at=row["last_at"], month_minor=int(row["month_minor"]), is_unpaid=row["is_unpaid"])
