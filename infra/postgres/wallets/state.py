"""Wallets locked, as pricing knows them, and what was decided written down: many at once, in the caller's transaction.

The lock of a wallet is that of its customer's row, taken in the order of the customers' ids: everybody who moves money
of a customer waits there, and never in a circle. It lets others refer to the customer meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from infra.postgres.pool import PgConnection, Row
from pricing.periods import BillingPeriod
from pricing.wallets import Posting, WalletGrant, WalletState
from schemas.wallets import GrantKind, GrantStatus

_WALLET_SQL = """
SELECT w.*, c.timezone, c.external_id FROM wallets w JOIN customers c ON c.id = w.customer_id
"""

#: What can still give something, or is still to happen.
_OPEN = "status IN ('scheduled', 'active') AND (status = 'scheduled' OR balance_minor > 0 OR every IS NOT NULL)"


@dataclass(slots=True, kw_only=True)
class OpenWallet:
    """A locked wallet: its row as it was read, its state as it is now, and what is to be written of it."""

    row: Row
    state: WalletState
    is_new: bool = False
    is_touched: bool = False  # what is due has been looked at: write what is due next
    top_up_at: datetime | None = None  # of a touched one, when to look again whether it is to be topped up
    postings: list[Posting] = field(default_factory=list[Posting])

    @property
    def key(self) -> tuple[str, str]:
        return (self.row["customer_id"], self.row["currency"])


def lock_customers(connection: PgConnection, customer_ids: Collection[str]) -> None:
    """Nobody else moves money of these customers until the caller's transaction ends."""
    connection.execute(
        "SELECT 1 FROM customers WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", (sorted(customer_ids),)
    )


def open_wallets(connection: PgConnection, customer_ids: Collection[str]) -> dict[tuple[str, str], OpenWallet]:
    """All wallets of these customers by (customer_id, currency), locked."""
    lock_customers(connection, customer_ids)
    # A statement of its own sees what those we waited for have committed.
    rows = connection.execute(_WALLET_SQL + " WHERE w.customer_id = ANY(%s)", (sorted(customer_ids),)).fetchall()
    found = [read_wallet(row) for row in rows]
    load_grants(connection, found)
    return {wallet.key: wallet for wallet in found}


def open_wallet(connection: PgConnection, *, tenant_id: str, wallet_id: str) -> OpenWallet | None:
    """One wallet of the tenant, locked."""
    row = connection.execute(
        "SELECT customer_id FROM wallets WHERE tenant_id = %s AND id = %s", (tenant_id, wallet_id)
    ).fetchone()
    if row is None:
        return None
    wallets = open_wallets(connection, [row["customer_id"]])
    return next(wallet for wallet in wallets.values() if wallet.state.id == wallet_id)


def look_at_wallets(connection: PgConnection, rows: Sequence[Row]) -> list[OpenWallet]:
    """Wallets by their rows (of `load_wallet`), for reading only: without a lock."""
    found = [read_wallet(row) for row in rows]
    load_grants(connection, found)
    return found


def read_wallet(row: Row) -> OpenWallet:
    state = WalletState(
        id=row["id"],
        timezone=row["timezone"],
        allow_negative=row["allow_negative"],
        overdraft_minor=row["overdraft_minor"],
    )
    return OpenWallet(row=row, state=state)


def load_grants(connection: PgConnection, wallets: Sequence[OpenWallet], *, also: Collection[str] = ()) -> None:
    """Put the open grants of wallets into their states, and those with the ids `also`, open or not."""
    if not wallets:
        return
    states = {wallet.state.id: wallet.state for wallet in wallets}
    query = "SELECT * FROM wallet_grants WHERE wallet_id = ANY(%s) AND "
    rows = connection.execute(query + _OPEN, (list(states),)).fetchall()
    if also:
        rows += connection.execute(query + "id = ANY(%s)", (list(states), list(also))).fetchall()
    for row in rows:
        states[row["wallet_id"]].grants.setdefault(row["id"], read_grant(row))


def read_grant(row: Row) -> WalletGrant:
    """A grant as pricing knows it."""
    return WalletGrant(
        id=row["id"],
        kind=GrantKind(row["kind"]),
        amount_minor=row["amount_minor"],
        priority=row["priority"],
        effective_at=row["effective_at"],
        expires_at=row["expires_at"],
        every=None if row["every"] is None else BillingPeriod(row["every"]),
        anchor=row["anchor"],
        rollover_min_minor=row["rollover_min_minor"],
        rollover_max_minor=row["rollover_max_minor"],
        status=GrantStatus(row["status"]),
        refilled_until=row["refilled_until"],
        balance_minor=row["balance_minor"],
        invoice_id=row["invoice_id"],
        credit_note_id=row["credit_note_id"],
        is_automatic=row["is_automatic"],
    )


def make_wallet(
    *, wallet_id: str, customer: Row, currency: str, name: str, is_opened: bool, now: datetime
) -> OpenWallet:
    """An empty wallet of a customer that is locked; `save_wallets` stores it."""
    row: Row = {
        "id": wallet_id,
        "tenant_id": customer["tenant_id"],
        "customer_id": customer["id"],
        "external_id": customer["external_id"],
        "currency": currency,
        "test_clock_id": customer["test_clock_id"],
        "name": name,
        "is_opened": is_opened,
        "allow_negative": False,
        "granted_minor": 0,
        "overdraft_minor": 0,
        "low_balance_minor": None,
        "is_low": False,
        "auto_top_up": None,
        "due_at": None,
        "metadata": {},
        "created_at": now,
    }
    return OpenWallet(row=row, state=WalletState(id=wallet_id, timezone=customer["timezone"]), is_new=True)
