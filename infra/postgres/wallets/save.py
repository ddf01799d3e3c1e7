"""Writing what was decided of wallets: new rows, transactions with their entries, what is due next, system events.

A fixed number of statements, however many wallets there are. Balances are not written here: the ledger's trigger adds
the entries up, and its checks refuse what must not be.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.crash_points import crash_point
from infra.postgres.invoice_events import copy_events
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from infra.postgres.wallets.state import OpenWallet
from pricing.billing import MAX_MINOR
from pricing.wallets import Posting, WalletGrant, first_change
from schemas.errors import Conflict
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor
from schemas.topics import SystemEvent


def save_wallets(
    connection: PgConnection,
    wallets: Sequence[OpenWallet],
    *,
    now: datetime,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write everything that has changed of locked wallets. `metadata`: by grant, `{name, metadata}` of new ones.

    Raises Conflict `wallet.too_much` for a balance beyond MAX_MINOR.
    """
    changed = [w for w in wallets if w.is_new or w.is_touched or w.postings or _changed_grants(w)]
    if not changed:
        return
    _check_size(changed)
    _insert_wallets(connection, [wallet for wallet in changed if wallet.is_new])
    _insert_grants(connection, changed, metadata or {}, now)
    crash_point("wallets.grants_written")
    transactions = [
        (new_id(Prefix.WALLET_TRANSACTION), wallet, posting) for wallet in changed for posting in wallet.postings
    ]
    _copy_transactions(connection, transactions, now)
    _copy_entries(connection, transactions)
    crash_point("wallets.entries_written")
    _update_grants(connection, changed, now)
    events = _events(changed, transactions, now)
    _update_wallets(connection, changed, now)
    copy_events(connection, events)


def _check_size(wallets: Sequence[OpenWallet]) -> None:
    for wallet in wallets:
        granted = sum(grant.balance_minor for grant in wallet.state.grants.values())
        if max(granted, wallet.state.overdraft_minor) > MAX_MINOR:
            raise Conflict("wallet.too_much", f"The wallet {wallet.state.id} can't hold so much.")


def is_low(wallet: OpenWallet) -> bool:
    """Whether the balance is below what its owner calls low."""
    threshold = wallet.row["low_balance_minor"]
    return threshold is not None and wallet.state.balance_minor < threshold


def due_at(wallet: OpenWallet, now: datetime) -> datetime | None:
    """When something happens in the wallet by itself next. One that may have to be topped up is due at once, or when
    whoever has just looked says."""
    changes = [first_change(wallet.state)]
    settings = wallet.row["auto_top_up"]
    if settings is not None and wallet.state.balance_minor < settings["threshold_minor"]:
        changes.append(wallet.top_up_at if wallet.is_touched else now)
    return min((at for at in changes if at is not None), default=None)


def _changed_grants(wallet: OpenWallet) -> list[WalletGrant]:
    return [grant for grant in wallet.state.grants.values() if grant.is_new or grant.is_changed]


def _insert_wallets(connection: PgConnection, wallets: Sequence[OpenWallet]) -> None:
    names = (
        *("id", "tenant_id", "customer_id", "currency", "test_clock_id", "name", "is_opened", "allow_negative"),
        *("low_balance_minor", "is_low", "auto_top_up", "metadata", "created_at"),
    )
    if not wallets:
        return
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY wallets (id, tenant_id, customer_id, currency, test_clock_id, name, is_opened, allow_negative,"
            " low_balance_minor, is_low, auto_top_up, metadata, created_at) FROM STDIN"
        ) as copy,
    ):
        for wallet in wallets:
            row = wallet.row
            plain = row | {
                "metadata": jsonb(row["metadata"]),
                "auto_top_up": None if row["auto_top_up"] is None else jsonb(row["auto_top_up"]),
            }
            copy.write_row([plain[name] for name in names])


def _insert_grants(
    connection: PgConnection, wallets: Sequence[OpenWallet], said: Mapping[str, Mapping[str, Any]], now: datetime
) -> None:
    new = [(wallet, grant) for wallet in wallets for grant in wallet.state.grants.values() if grant.is_new]
    if not new:
        return
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY wallet_grants (id, tenant_id, wallet_id, kind, name, amount_minor, priority, effective_at,"
            " expires_at, every, anchor, rollover_min_minor, rollover_max_minor, status, refilled_until, invoice_id,"
            " credit_note_id, is_automatic, metadata, created_at) FROM STDIN"
        ) as copy,
    ):
        for wallet, grant in new:
            own = said.get(grant.id, {})
            copy.write_row(
                (
                    grant.id,
                    wallet.row["tenant_id"],
                    wallet.state.id,
                    grant.kind,
                    own.get("name"),
                    grant.amount_minor,
                    grant.priority,
                    grant.effective_at,
                    grant.expires_at,
                    grant.every,
                    grant.anchor,
                    grant.rollover_min_minor,
                    grant.rollover_max_minor,
                    grant.status,
                    grant.refilled_until,
                    grant.invoice_id,
                    grant.credit_note_id,
                    grant.is_automatic,
                    jsonb(own.get("metadata", {})),
                    now,
                )
            )


def _copy_transactions(
    connection: PgConnection, transactions: Sequence[tuple[str, OpenWallet, Posting]], now: datetime
) -> None:
    if not transactions:
        return
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY wallet_transactions (id, tenant_id, wallet_id, type, invoice_id, credit_note_id, amount_minor,"
            " occurred_at, created_at) FROM STDIN"
        ) as copy,
    ):
        for transaction_id, wallet, posting in transactions:
            copy.write_row(
                (
                    transaction_id,
                    wallet.row["tenant_id"],
                    wallet.state.id,
                    posting.type,
                    posting.invoice_id,
                    posting.credit_note_id,
                    posting.change_minor,
                    posting.occurred_at,
                    now,
                )
            )


def _copy_entries(connection: PgConnection, transactions: Sequence[tuple[str, OpenWallet, Posting]]) -> None:
    if not transactions:
        return
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY wallet_entries (transaction_id, wallet_id, grant_id, account, amount_minor) FROM STDIN"
        ) as copy,
    ):
        for transaction_id, wallet, posting in transactions:
            for entry in posting.entries:
                copy.write_row((transaction_id, wallet.state.id, entry.grant_id, entry.account, entry.amount_minor))


def _update_grants(connection: PgConnection, wallets: Sequence[OpenWallet], now: datetime) -> None:
    changed = [g for wallet in wallets for g in wallet.state.grants.values() if g.is_changed and not g.is_new]
    if not changed:
        return
    connection.execute(
        "UPDATE wallet_grants AS g SET status = new.status, refilled_until = new.refilled_until,"
        " effective_at = new.effective_at, amount_minor = new.amount_minor,"
        " voided_at = CASE WHEN new.status = 'voided' THEN %s::timestamptz END"
        " FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[])"
        " AS new (id, status, refilled_until, effective_at, amount_minor) WHERE g.id = new.id",
        (
            now,
            [grant.id for grant in changed],
            [grant.status for grant in changed],
            [grant.refilled_until for grant in changed],
            [grant.effective_at for grant in changed],
            [grant.amount_minor for grant in changed],
        ),
    )


def _update_wallets(connection: PgConnection, wallets: Sequence[OpenWallet], now: datetime) -> None:
    connection.execute(
        "UPDATE wallets AS w SET due_at = new.due_at, is_low = new.is_low"
        " FROM unnest(%s::text[], %s::timestamptz[], %s::boolean[]) AS new (id, due_at, is_low)"
        " WHERE w.id = new.id AND (w.due_at, w.is_low) IS DISTINCT FROM (new.due_at, new.is_low)",
        (
            [wallet.state.id for wallet in wallets],
            [due_at(wallet, now) for wallet in wallets],
            [is_low(wallet) for wallet in wallets],
        ),
    )


def _events(
    wallets: Sequence[OpenWallet], transactions: Sequence[tuple[str, OpenWallet, Posting]], now: datetime
) -> list[tuple[Any, ...]]:
    """One of each transaction, and one of each balance that has become low."""
    rows: list[tuple[Any, ...]] = []
    for transaction_id, wallet, posting in transactions:
        data = {
            "id": transaction_id,
            "type": posting.type,
            "amount": _amount(wallet, posting.change_minor),
            "invoice": posting.invoice_id,
            "occurred_at": posting.occurred_at,
        }
        rows.append(event_row(wallet, SystemEvent.WALLET_TRANSACTION_CREATED, data, now))
    for wallet in wallets:
        if is_low(wallet) and not wallet.row["is_low"]:
            threshold = wallet.row["low_balance_minor"]
            data = {"id": wallet.state.id, "threshold": _amount(wallet, threshold)}
            rows.append(event_row(wallet, SystemEvent.WALLET_BALANCE_LOW, data, now))
    return rows


def event_row(wallet: OpenWallet, event: SystemEvent, data: Mapping[str, Any], now: datetime) -> tuple[Any, ...]:
    """A row of the outbox that tells of a wallet; each says whose it is and its balance now."""
    full = {
        **data,
        "wallet": wallet.state.id,
        "customer": wallet.row["external_id"],
        "currency": wallet.row["currency"],
        "balance": _amount(wallet, wallet.state.balance_minor),
    }
    return (new_id(Prefix.SYSTEM_EVENT), wallet.row["tenant_id"], event, wallet.state.id, jsonb(full), now)


def _amount(wallet: OpenWallet, minor: int) -> str:
    currency = wallet.row["currency"]
    return format_amount(from_minor(minor, currency), currency)
