"""Rows of wallets, grants and transactions, one tenant's, for those who look at them; and the settings of a wallet."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row

MAX_LIVE_SUBSCRIPTIONS = 100  # of one customer, whose running usage a live balance adds up

_WALLET_SQL = "SELECT w.*, c.external_id, c.timezone FROM wallets w JOIN customers c ON c.id = w.customer_id"


def load_wallet(connection: PgConnection, *, tenant_id: str, wallet_id: str) -> Row | None:
    return connection.execute(_WALLET_SQL + " WHERE w.tenant_id = %s AND w.id = %s", (tenant_id, wallet_id)).fetchone()


def list_wallets(
    connection: PgConnection,
    *,
    tenant_id: str,
    customer_id: str | None,
    currency: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's wallets, newest first."""
    return connection.execute(
        _WALLET_SQL + " WHERE w.tenant_id = %(tenant_id)s"
        " AND (%(customer_id)s::text IS NULL OR w.customer_id = %(customer_id)s)"
        " AND (%(currency)s::text IS NULL OR w.currency = %(currency)s)"
        " AND (%(before_id)s::text IS NULL OR w.id < %(before_id)s) ORDER BY w.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "customer_id": customer_id,
            "currency": currency,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def update_wallet(
    connection: PgConnection,
    *,
    wallet_id: str,
    name: str,
    allow_negative: bool,
    low_balance_minor: int | None,
    is_low: bool,
    auto_top_up: dict[str, Any] | None,
    metadata: dict[str, str],
    due_at: datetime | None,
) -> None:
    """Write the whole of what may change; the wallet is locked. From now on somebody has asked for it."""
    connection.execute(
        "UPDATE wallets SET name = %s, allow_negative = %s, low_balance_minor = %s, is_low = %s, auto_top_up = %s,"
        " metadata = %s, due_at = %s, is_opened = true WHERE id = %s",
        (
            name,
            allow_negative,
            low_balance_minor,
            is_low,
            None if auto_top_up is None else jsonb(auto_top_up),
            jsonb(metadata),
            due_at,
            wallet_id,
        ),
    )


def load_grant(connection: PgConnection, *, wallet_id: str, grant_id: str) -> Row | None:
    return connection.execute(
        "SELECT * FROM wallet_grants WHERE wallet_id = %s AND id = %s", (wallet_id, grant_id)
    ).fetchone()


def list_grants(connection: PgConnection, *, wallet_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The grants of a wallet, newest first."""
    return connection.execute(
        "SELECT * FROM wallet_grants WHERE wallet_id = %(wallet_id)s"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"wallet_id": wallet_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def list_transactions(connection: PgConnection, *, wallet_id: str, before_id: str | None, limit: int) -> list[Row]:
    """The transactions of a wallet, newest first."""
    return connection.execute(
        "SELECT * FROM wallet_transactions WHERE wallet_id = %(wallet_id)s"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {"wallet_id": wallet_id, "before_id": before_id, "limit": limit},
    ).fetchall()


def load_entries(connection: PgConnection, transaction_ids: Sequence[str]) -> dict[str, list[Row]]:
    """The entries of transactions in their order, by transaction id."""
    rows = connection.execute(
        "SELECT transaction_id, grant_id, account, amount_minor FROM wallet_entries WHERE transaction_id = ANY(%s)"
        " ORDER BY no",
        (list(transaction_ids),),
    )
    entries: dict[str, list[Row]] = {transaction_id: [] for transaction_id in transaction_ids}
    for row in rows:
        entries[row["transaction_id"]].append(row)
    return entries


def load_billed_subscriptions(connection: PgConnection, *, customer_id: str, currency: str) -> list[str] | None:
    """The ids of the subscriptions whose invoices this customer is to pay in this currency: its own and its children's.

    None when there are more than MAX_LIVE_SUBSCRIPTIONS.
    """
    rows = connection.execute(
        "SELECT s.id FROM subscriptions s JOIN customers c ON c.id = s.customer_id"
        " WHERE c.id IN (SELECT id FROM customers WHERE id = %(customer_id)s AND parent_id IS NULL"
        "  UNION ALL SELECT id FROM customers WHERE parent_id = %(customer_id)s)"
        " AND s.currency = %(currency)s AND s.next_bill_at IS NOT NULL ORDER BY s.id LIMIT %(limit)s",
        {"customer_id": customer_id, "currency": currency, "limit": MAX_LIVE_SUBSCRIPTIONS + 1},
    ).fetchall()
    return [row["id"] for row in rows] if len(rows) <= MAX_LIVE_SUBSCRIPTIONS else None
