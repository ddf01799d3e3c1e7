"""What happens in wallets by itself: grants start, refill and end, and wallets that ran low top themselves up."""

from collections.abc import Sequence
from datetime import datetime

from infra.crash_points import crash_point
from infra.postgres.due import Due, DueRows, Moment, earliest_rows, load_due_rows
from infra.postgres.pool import PgConnection
from infra.postgres.wallets.save import save_wallets
from infra.postgres.wallets.state import open_wallets
from infra.postgres.wallets.top_ups import top_up_if_low
from pricing.wallets import catch_up

_DUE = DueRows(table="wallets", at="due_at")


def load_due_wallets(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` due wallets in the order of (due_at, id), from beyond `after` on."""
    return load_due_rows(connection, _DUE, moment=moment, after=after, limit=limit)


def earliest_wallets(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first wallet of its customers is due."""
    return earliest_rows(connection, _DUE, clock_ids)


def run_wallets(connection: PgConnection, wallet_ids: Sequence[str], *, now: datetime) -> int:
    """Do what is due of these wallets at `now`, in the caller's one transaction; how many had something due.

    Safe to repeat, and to be done by two at once: what is due is read under the lock, and written with when it is due
    next.
    """
    rows = connection.execute(
        "SELECT id, customer_id FROM wallets WHERE id = ANY(%s) AND due_at <= %s", (list(wallet_ids), now)
    ).fetchall()
    if not rows:
        return 0
    wanted = {row["id"] for row in rows}
    wallets = [
        wallet
        for wallet in open_wallets(connection, {row["customer_id"] for row in rows}).values()
        if wallet.state.id in wanted and wallet.row["due_at"] is not None and wallet.row["due_at"] <= now
    ]
    for wallet in wallets:
        wallet.postings += catch_up(wallet.state, now)
        wallet.is_touched = True
    low = [wallet for wallet in wallets if _may_top_up(wallet.row["auto_top_up"], wallet.state.balance_minor)]
    save_wallets(connection, [wallet for wallet in wallets if wallet not in low], now=now)
    for wallet in sorted(low, key=lambda each: each.state.id):
        top_up_if_low(connection, wallet, now=now)
    crash_point("wallets.before_commit")
    return len(wallets)


def _may_top_up(settings: dict[str, int] | None, balance_minor: int) -> bool:
    return settings is not None and balance_minor < settings["threshold_minor"]


def postpone_wallet(connection: PgConnection, wallet_id: str, *, until: datetime) -> None:
    """Look at a due wallet again later, because what is due of it can't be done."""
    connection.execute("UPDATE wallets SET due_at = %s WHERE id = %s AND due_at < %s", (until, wallet_id, until))
