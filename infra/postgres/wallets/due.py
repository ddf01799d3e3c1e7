"""What happens in wallets by itself: grants start, refill and end, and wallets that ran low top themselves up."""

from collections.abc import Sequence
from datetime import datetime

from infra.crash_points import crash_point
from infra.postgres.due import Due, Moment
from infra.postgres.pool import PgConnection
from infra.postgres.wallets.save import save_wallets
from infra.postgres.wallets.state import open_wallets
from infra.postgres.wallets.top_ups import top_up_if_low
from pricing.wallets import catch_up

_WITHOUT_CLOCK = "test_clock_id IS NULL"
_OF_CLOCK = "test_clock_id = %(clock_id)s"


def load_due_wallets(connection: PgConnection, *, moment: Moment, after: Due | None, limit: int) -> list[Due]:
    """Up to `limit` due wallets in the order of (due_at, id), from beyond `after` on."""
    whose = _WITHOUT_CLOCK if moment.clock_id is None else _OF_CLOCK
    rows = connection.execute(
        "SELECT due_at, id FROM wallets"  # noqa: S608 - texts of this file
        " WHERE " + whose + " AND due_at <= %(now)s"
        " AND (%(after_id)s::text IS NULL OR (due_at, id) > (%(after_at)s::timestamptz, %(after_id)s))"
        " ORDER BY due_at, id LIMIT %(limit)s",
        {
            "now": moment.now,
            "clock_id": moment.clock_id,
            "after_at": after and after.at,
            "after_id": after and after.id,
            "limit": limit,
        },
    )
    return [Due(row["due_at"], row["id"]) for row in rows]


def earliest_wallets(connection: PgConnection, clock_ids: Sequence[str]) -> dict[str, datetime]:
    """By test clock, when the first wallet of its customers is due."""
    rows = connection.execute(
        "SELECT test_clock_id, min(due_at) AS at FROM wallets WHERE test_clock_id = ANY(%s) AND due_at IS NOT NULL"
        " GROUP BY test_clock_id",
        (list(clock_ids),),
    )
    return {row["test_clock_id"]: row["at"] for row in rows}


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
