"""SIGKILL anywhere in billing by thresholds, drafts, wallets, periods and closings: every invoice is there once."""

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from infra.postgres.billing_settings import change_settings
from schemas.billing import BilledSubscription
from tests.support.billing import ADVANCE, USAGE, World, instant
from tests.support.clocks import advance, clock, go_to, new_clock, subscribe
from tests.support.wallets import add_wallet, check_books, fill

FAR = "2099-01-01"
END = "2026-02-13"  # two days after the cancellation: its draft is final
LATER = "2026-09-01"  # with as many statements as it takes to be killed at the third of each
#: Every place between two writes of a step of the clock, in the order in which a step comes to them.
POINTS = (
    *("clock.moved", "wallets.grants_written", "wallets.entries_written", "wallets.before_commit", "wallets.committed"),
    *("billing.priced", "billing.locked", "billing.invoices_written", "billing.lines_written", "billing.numbered"),
    *("billing.credits_written", "billing.before_commit", "billing.committed", "clock.worked"),
)
FEW = ("wallets.entries_written", "billing.lines_written", "billing.numbered")


def begin(world: World, clock_id: str) -> list[BilledSubscription]:
    """Customers by a clock: one with a threshold, one with a wallet that renews and expires, one that is canceled."""
    weekly = {**ADVANCE, "billing_period": "week"}
    threshold = subscribe(world, clock_id, weekly, USAGE, invoice_threshold=50)
    prepaid, leaving = subscribe(world, clock_id, ADVANCE, USAGE), subscribe(world, clock_id, ADVANCE, USAGE)
    wallet_id = add_wallet(world, prepaid.customer_id)
    fill(world, wallet_id, 30_00, expires_at=instant("2026-01-25"))
    fill(world, wallet_id, 10_00, every="week", anchor=instant("2026-01-01"))
    world.cancel(leaving, "2026-02-11", prorate=True)
    world.rows("UPDATE subscriptions SET next_bill_at = start_at WHERE id = %(id)s RETURNING 1", id=leaving.id)
    for subscription in (threshold, prepaid, leaving):
        world.use(subscription, *((f"2026-0{month}-{day}", 1_700) for month in (1, 2, 3) for day in ("03", "10", "18")))
    world.stored_until(FAR)
    return [threshold, prepaid, leaving]


def invoices(world: World, subscriptions: Sequence[BilledSubscription]) -> list[list[tuple[Any, ...]]]:
    """By subscription, all that its invoices say, but for numbers and ids."""
    names = ("kind", "period_end", "status", "finalized_at", "total_minor", "credits_applied_minor", "amount_due_minor")
    return [
        [
            (
                *(invoice[name] for name in names),
                [(line["key"], line["period_start"], line["amount_minor"]) for line in invoice["lines"]],
            )
            for invoice in world.invoices(subscription)
        ]
        for subscription in subscriptions
    ]


def check_killed_at(world: World, points: Sequence[str], *, until: str = END) -> None:
    """Advance one clock killed at each of these, another one in peace: both have the same invoices."""
    with world.doors.database.transaction() as connection:
        change_settings(connection, tenant_id=world.tenant_id, changes={"draft_hours": 24})
    killed_by, peaceful_by = new_clock(world), new_clock(world)
    killed, peaceful = begin(world, killed_by), begin(world, peaceful_by)
    for clock_id in (killed_by, peaceful_by):
        go_to(world, clock_id, until)
    for point in points:
        assert advance(world, killed_by, crash_at=point) == -signal.SIGKILL, f"it did not come to {point}"
    for clock_id in (killed_by, peaceful_by):
        assert advance(world, clock_id) == 0
        assert clock(world, clock_id) == ("ready", until)
    found, expected = invoices(world, killed), invoices(world, peaceful)
    assert found == expected
    kinds = {invoice[0] for each in expected for invoice in each}
    assert kinds == {"subscription", "threshold", "closing"}
    assert any(invoice[5] for invoice in expected[1]), "the wallet has paid something"
    check_books(world)


@pytest.mark.timeout(240)
def test_kills_between_writes_of_thresholds_drafts_wallets_and_closings_leave_every_invoice_once(world: World) -> None:
    check_killed_at(world, FEW)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_kills_at_every_place_again_and_again_leave_every_invoice_once(world: World) -> None:
    check_killed_at(world, [f"{point}:{count}" for count in (1, 2, 3) for point in POINTS], until=LATER)
