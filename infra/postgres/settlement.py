"""What pays invoices by itself when they are finalized: the wallets of their customers, and what gives it back.

The payer's wallet in the invoice's currency pays, in the burn order of its grants. A negative total becomes a grant
that never expires. Everything is done for many invoices at once, and no invoice costs a query of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.credits import CreditEntry
from infra.postgres.pool import PgConnection, Row
from infra.postgres.wallets.save import save_wallets
from infra.postgres.wallets.state import OpenWallet, load_grants, make_wallet, open_wallets
from pricing.wallets import WalletGrant, catch_up, credit_grant, paid_by_grant, pay, take_back, void_grant
from pricing.wallets import give_back as return_payment
from schemas.billing import InvoiceKind
from schemas.errors import Reject
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor
from schemas.wallets import GrantStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Payable:
    """An invoice about to be finalized. A negative total is owed to the customer. One that sells a top-up is paid by
    no wallet."""

    invoice_id: str
    tenant_id: str
    customer_id: str
    currency: str
    total_minor: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What `settle` decided: by invoice id what is applied, from 0 to its total; and what is still to be written."""

    applied_minor: dict[str, int]
    wallets: tuple[OpenWallet, ...]


def settle(connection: PgConnection, invoices: Sequence[Payable], *, now: datetime) -> Settlement:
    """Decide what pays each of the invoices, in their order: one may use what one before it gave.

    Locks the customers' rows in the order of their ids, until the caller's transaction ends. Writes nothing: the
    invoices need not be there yet. `book` does, once they are.
    """
    settled = [invoice for invoice in invoices if invoice.total_minor and invoice.kind != InvoiceKind.TOP_UP]
    wallets = open_wallets(connection, {invoice.customer_id for invoice in settled})
    owed = {(invoice.customer_id, invoice.currency) for invoice in settled if invoice.total_minor < 0}
    wallets |= _make_missing(connection, owed - wallets.keys(), now)
    for wallet in wallets.values():
        wallet.postings += catch_up(wallet.state, now)
    applied = {invoice.invoice_id: 0 for invoice in invoices}
    for invoice in settled:
        wallet = wallets.get((invoice.customer_id, invoice.currency))
        if wallet is None:
            continue
        if invoice.total_minor < 0:
            _give(wallet, -invoice.total_minor, now, invoice_id=invoice.invoice_id)
            continue
        paid, postings = pay(wallet.state, invoice.invoice_id, invoice.total_minor, now)
        wallet.postings += postings
        applied[invoice.invoice_id] = paid
    return Settlement(applied_minor=applied, wallets=tuple(wallets.values()))


def book(connection: PgConnection, settlement: Settlement, *, now: datetime) -> None:
    """Write what was decided, in the same transaction and with the same `now`; the invoices are there by now."""
    save_wallets(connection, settlement.wallets, now=now)


def give_back(connection: PgConnection, invoice: Payable, *, applied_minor: int, now: datetime) -> None:
    """Return what had paid an invoice that is voided now to the grants it came from; the invoice's row is locked.

    What came from a grant that has expired or been voided since stays expired.
    """
    if not applied_minor:
        return
    wallet = open_wallets(connection, [invoice.customer_id])[invoice.customer_id, invoice.currency]
    entries = connection.execute(
        "SELECT e.grant_id, e.account, e.amount_minor FROM wallet_entries e"
        " JOIN wallet_transactions t ON t.id = e.transaction_id WHERE t.invoice_id = %s AND t.type = 'invoice'",
        (invoice.invoice_id,),
    ).fetchall()
    paid = paid_by_grant((row["grant_id"], row["account"], row["amount_minor"]) for row in entries)
    load_grants(connection, [wallet], also=[grant_id for grant_id in paid if grant_id is not None])
    wallet.postings += catch_up(wallet.state, now)
    wallet.postings += return_payment(wallet.state, invoice.invoice_id, paid, now, credit_id=new_id(Prefix.GRANT))
    save_wallets(connection, [wallet], now=now)


def give_credit(connection: PgConnection, entries: Sequence[CreditEntry], *, now: datetime) -> None:
    """Give customers credit, in the caller's transaction. Locks the customers' rows."""
    wallets = open_wallets(connection, {entry.customer_id for entry in entries})
    wallets |= _make_missing(connection, {(e.customer_id, e.currency) for e in entries} - wallets.keys(), now)
    for wallet in wallets.values():
        wallet.postings += catch_up(wallet.state, now)
    for entry in entries:
        wallet = wallets[entry.customer_id, entry.currency]
        _give(wallet, entry.amount_minor, now, invoice_id=entry.invoice_id, credit_note_id=entry.credit_note_id)
    save_wallets(connection, list(wallets.values()), now=now)


def _give(
    wallet: OpenWallet,
    amount_minor: int,
    now: datetime,
    *,
    invoice_id: str,
    credit_note_id: str | None = None,
) -> None:
    grant = credit_grant(new_id(Prefix.GRANT), amount_minor, now, invoice_id=invoice_id, credit_note_id=credit_note_id)
    wallet.state.grants[grant.id] = grant
    wallet.postings += catch_up(wallet.state, now)


def _make_missing(
    connection: PgConnection, keys: Collection[tuple[str, str]], now: datetime
) -> dict[tuple[str, str], OpenWallet]:
    """Wallets for customers and currencies that have none; the customers are locked."""
    if not keys:
        return {}
    rows = connection.execute(
        "SELECT id, tenant_id, external_id, timezone, test_clock_id FROM customers WHERE id = ANY(%s)",
        (sorted({customer_id for customer_id, _ in keys}),),
    )
    customers: dict[str, Row] = {row["id"]: row for row in rows}
    return {
        (customer_id, currency): make_wallet(
            wallet_id=new_id(Prefix.WALLET),
            customer=customers[customer_id],
            currency=currency,
            name=currency,
            is_opened=False,
            now=now,
        )
        for customer_id, currency in sorted(keys)
    }


def start_top_up(connection: PgConnection, invoice: Payable, *, paid_minor: int, now: datetime) -> None:
    """Let the grant that a paid invoice sold take effect, as far as money has paid it and was not paid back (a credit
    note may have lowered what was due); the invoice's row is locked."""
    wallet, grant, _ = _sold(connection, invoice)
    if grant is None or grant.status is not GrantStatus.UNPAID:
        return  # somebody has voided it
    wallet.postings += catch_up(wallet.state, now)
    if paid_minor == 0:
        void_grant(grant, now)
    else:
        grant.status, grant.amount_minor, grant.is_changed = GrantStatus.SCHEDULED, paid_minor, True
        if grant.expires_at is None or grant.expires_at > now:
            grant.effective_at = now
        wallet.postings += catch_up(wallet.state, now)
    save_wallets(connection, [wallet], now=now)


def drop_top_up(connection: PgConnection, invoice: Payable, *, now: datetime) -> None:
    """Void the grant that waited for the payment of an invoice that is voided now; its row is locked."""
    wallet, grant, _ = _sold(connection, invoice)
    if grant is not None and grant.status is GrantStatus.UNPAID:
        void_grant(grant, now)
        save_wallets(connection, [wallet], now=now)


def give_up_top_up(connection: PgConnection, invoice: Payable, *, now: datetime) -> None:
    """Let the wallet top itself up again, if it does, though nobody has paid this invoice, which is given up now; its
    row is locked."""
    wallet, _, _ = _sold(connection, invoice)
    wallet.postings += catch_up(wallet.state, now)
    wallet.is_touched, wallet.top_up_at = True, now
    save_wallets(connection, [wallet], now=now)


def take_back_top_up(
    connection: PgConnection, invoice: Payable, *, amount_minor: int, credit_note_id: str, now: datetime
) -> None:
    """Take what a credit note pays back of a top-up out of the wallet; the invoice's row is locked. A grant that still
    waits for the rest of its money has nothing yet.

    Raises Reject `credit_note.exceeds_grant` for what the grant has paid invoices with.
    """
    wallet, grant, _ = _sold(connection, invoice)
    if grant is None or grant.status is GrantStatus.UNPAID:
        return
    wallet.postings += catch_up(wallet.state, now)
    save_wallets(connection, [wallet], now=now)
    wallet, grant, expired_minor = _sold(connection, invoice)
    assert grant is not None
    left_minor = grant.balance_minor + expired_minor
    if amount_minor > left_minor:
        left = format_amount(from_minor(left_minor, invoice.currency), invoice.currency)
        raise Reject.at(
            "/amount",
            "credit_note.exceeds_grant",
            f"The rest of the top-up has paid invoices: only {left} {invoice.currency} of it can be paid back.",
        )
    wallet.postings += take_back(grant, amount_minor, now, invoice_id=invoice.invoice_id, credit_note_id=credit_note_id)
    save_wallets(connection, [wallet], now=now)


def _sold(connection: PgConnection, invoice: Payable) -> tuple[OpenWallet, WalletGrant | None, int]:
    """The wallet, the grant that an invoice sold (None: it sold none), and what of that has expired or been voided."""
    wallet = open_wallets(connection, [invoice.customer_id])[invoice.customer_id, invoice.currency]
    row = connection.execute(
        "SELECT id, expired_minor FROM wallet_grants WHERE invoice_id = %s AND kind = 'paid'", (invoice.invoice_id,)
    ).fetchone()
    if row is None:
        return wallet, None, 0
    load_grants(connection, [wallet], also=[row["id"]])
    return wallet, wallet.state.grants[row["id"]], row["expired_minor"]
