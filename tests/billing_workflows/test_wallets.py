"""Wallets on the real store: what is due in them, the ledger's own guard, and many who pay at once."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from billing_workflows.due import load_page
from infra.postgres.due import Due, Moment
from infra.postgres.invoice_lifecycle import lock_invoice, mark_uncollectible, void_invoice
from infra.postgres.payments import insert_payment
from infra.postgres.pool import PostgresError
from infra.postgres.wallets.due import earliest_wallets
from pricing.billing import MAX_MINOR
from pricing.periods import BillingPeriod
from schemas.ids import Prefix, new_id
from schemas.workflows import WALLETS
from tests.support.billing import World, instant
from tests.support.wallets import (
    add_customer,
    add_wallet,
    check_books,
    due_wallets,
    fill,
    grant_row,
    invoice,
    ledger,
    run_due,
    wallet_row,
)

WAIT_SECONDS = 60
AUTO = {"threshold_minor": 1_000, "amount_minor": 500, "cool_off_seconds": 3_600, "monthly_cap_minor": 1_000}


def at(text: str, change: int, kind: str) -> tuple[str, int, object]:
    return (kind, change, instant(text))


def pay_top_up(world: World, *, now: str) -> None:
    """Pay every top-up of the tenant that can be paid."""
    open_ = world.rows(
        "SELECT id, amount_due_minor FROM invoices WHERE tenant_id = %(t)s AND kind = 'top_up'"
        " AND status IN ('open', 'uncollectible')",
        t=world.tenant_id,
    )
    for row in open_:
        with world.doors.database.transaction() as connection:
            insert_payment(
                connection,
                lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=row["id"]),
                payment_id=new_id(Prefix.PAYMENT),
                amount_minor=row["amount_due_minor"],
                provider="manual",
                reference=None,
                metadata={},
                now=instant(now),
            )


def top_ups(world: World, wallet_id: str) -> list[tuple[str, object]]:
    rows = world.rows(
        "SELECT status, created_at FROM wallet_grants WHERE wallet_id = %(w)s AND is_automatic ORDER BY id", w=wallet_id
    )
    return [(row["status"], row["created_at"]) for row in rows]


def test_starts_refills_and_expiries_happen_when_they_are_due(world: World) -> None:
    wallet = add_wallet(world, add_customer(world))
    fill(world, wallet, 100, effective_at=instant("2026-02-01"), expires_at=instant("2026-03-01"))
    fill(world, wallet, 10, every=BillingPeriod.MONTH, anchor=instant("2026-01-15"), rollover_max_minor=4)
    assert due_wallets(world, "2026-01-14") == []
    assert run_due(world, "2026-01-15") == 1
    assert run_due(world, "2026-01-15") == 0
    assert run_due(world, "2026-03-20") == 1
    assert ledger(world, wallet) == [
        at("2026-01-01", 10, "grant"),
        at("2026-01-15", 4, "refill"),
        at("2026-02-01", 100, "grant"),
        at("2026-02-15", 0, "refill"),
        at("2026-03-01", -100, "expiry"),
        at("2026-03-15", 0, "refill"),
    ]
    assert wallet_row(world, wallet)["due_at"] == instant("2026-04-15")
    check_books(world)


def test_due_wallets_come_in_pages_and_those_of_a_clock_apart(world: World) -> None:
    clock_id = "tck_" + new_id(Prefix.TENANT)
    world.rows(
        "INSERT INTO test_clocks (id, tenant_id, name, now, status, created_at)"
        " VALUES (%(id)s, %(t)s, 'c', %(now)s, 'ready', %(now)s) RETURNING id",
        id=clock_id,
        t=world.tenant_id,
        now=instant("2026-01-01"),
    )
    wallets = [add_wallet(world, add_customer(world)) for _ in range(3)]
    clocked = add_wallet(world, add_customer(world, clock_id=clock_id))
    for wallet in (*wallets, clocked):
        fill(world, wallet, 5, effective_at=instant("2026-02-01"))
    assert due_wallets(world, "2026-02-01") == sorted(wallets)
    assert due_wallets(world, "2026-02-01", clock_id=clock_id) == [clocked]
    with world.doors.database.transaction() as connection:
        assert earliest_wallets(connection, [clock_id]) == {clock_id: instant("2026-02-01")}
    beyond = Due(instant("2026-02-01"), sorted(wallets)[1])
    page = load_page(world.doors, WALLETS, Moment(now=instant("2026-02-01")), after=beyond)
    assert {wallet for chunk in page.chunks for wallet in chunk} & set(wallets) == {sorted(wallets)[2]}
    assert run_due(world, "2026-02-01", clock_id=clock_id) == 1
    with world.doors.database.transaction() as connection:
        assert earliest_wallets(connection, [clock_id]) == {}
    run_due(world, "2026-02-01")


def test_a_wallet_that_runs_low_tops_itself_up_with_cool_off_and_cap(world: World) -> None:
    wallet = add_wallet(world, add_customer(world), auto_top_up=AUTO)
    assert run_due(world, "2026-01-01T00:00:00") == 1
    first = ("unpaid", instant("2026-01-01"))
    assert top_ups(world, wallet) == [first]
    assert due_wallets(world, "2026-01-02") == []  # one that waits for its payment is enough
    pay_top_up(world, now="2026-01-01T00:10:00")
    assert wallet_row(world, wallet)["granted_minor"] == 500
    run_due(world, "2026-01-01T00:10:00")
    assert wallet_row(world, wallet)["due_at"] == instant("2026-01-01T01:00:00")  # the cool-off, to the second
    run_due(world, "2026-01-01T01:00:00")
    assert top_ups(world, wallet) == [("active", instant("2026-01-01")), ("unpaid", instant("2026-01-01T01:00:00"))]
    pay_top_up(world, now="2026-01-01T02:00:00")
    assert wallet_row(world, wallet)["granted_minor"] == 1_000
    assert due_wallets(world, "2026-01-02") == []  # no longer below
    with world.doors.database.transaction() as connection:
        customer = wallet_row(world, wallet)["customer_id"]
        invoice(connection, world, [customer], "3", now=instant("2026-01-03"))
    run_due(world, "2026-01-03")
    assert wallet_row(world, wallet)["due_at"] == instant("2026-02-01")  # the month's cap
    run_due(world, "2026-02-01")
    assert top_ups(world, wallet)[2:] == [("unpaid", instant("2026-02-01"))]
    check_books(world)


def test_a_voided_top_up_frees_the_way_for_the_next(world: World) -> None:
    wallet = add_wallet(world, add_customer(world), auto_top_up=AUTO)
    run_due(world, "2026-01-01")
    [sold] = world.rows("SELECT id FROM invoices WHERE tenant_id = %(t)s", t=world.tenant_id)
    with world.doors.database.transaction() as connection:
        row = lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=sold["id"])
        void_invoice(connection, row, now=instant("2026-01-02"))
    run_due(world, "2026-01-02")
    assert top_ups(world, wallet) == [("voided", instant("2026-01-01")), ("unpaid", instant("2026-01-02"))]


def test_an_automatic_top_up_that_was_given_up_lets_the_next_one_come_and_may_be_paid_all_the_same(
    world: World,
) -> None:
    wallet = add_wallet(world, add_customer(world), auto_top_up=AUTO)
    run_due(world, "2026-01-01")
    [sold] = world.rows("SELECT id FROM invoices WHERE tenant_id = %(t)s", t=world.tenant_id)
    with world.doors.database.transaction() as connection:
        row = lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=sold["id"])
        mark_uncollectible(connection, row, now=instant("2026-01-20"))
    run_due(world, "2026-01-20")
    assert top_ups(world, wallet) == [("unpaid", instant("2026-01-01")), ("unpaid", instant("2026-01-20"))]
    assert due_wallets(world, "2026-01-30") == []
    pay_top_up(world, now="2026-01-21")
    assert wallet_row(world, wallet)["granted_minor"] == 1_000
    check_books(world)


def test_many_who_pay_from_the_same_wallets_at_once_never_overdraw_them(world: World) -> None:
    """Batches in every order of customers, grants that start meanwhile: no deadlock, and no cent is spent twice."""
    customers = [add_customer(world) for _ in range(6)]
    wallets = [add_wallet(world, customer) for customer in customers]
    for wallet in wallets:
        fill(world, wallet, 1_000, priority=1)
        fill(world, wallet, 500, effective_at=instant("2026-01-02"))

    def pay_all(seed: int) -> int:
        order = Random(seed).sample(customers, len(customers))
        with world.doors.database.transaction() as connection:
            issued = invoice(connection, world, [*order, order[0]], "2.5", now=instant("2026-01-02"))
        return sum(one.credits_applied_minor for one in issued)

    with ThreadPoolExecutor(4) as workers:
        applied = sum(workers.map(pay_all, range(12), timeout=WAIT_SECONDS))
    assert applied == 6 * 1_500  # 12 x 7 invoices of 2.50 ask for more than there is
    assert [wallet_row(world, wallet)["granted_minor"] for wallet in wallets] == [0] * 6
    check_books(world)


def test_the_ledger_is_append_only_and_takes_no_transaction_that_is_not_zero(world: World) -> None:
    wallet = add_wallet(world, add_customer(world))
    grant = fill(world, wallet, 100)
    for change in (
        "UPDATE wallet_entries SET amount_minor = 1",
        "DELETE FROM wallet_entries",
        "TRUNCATE wallet_entries",
        "UPDATE wallet_transactions SET amount_minor = 1",
        "DELETE FROM wallet_transactions",
    ):
        with pytest.raises(PostgresError, match="append-only"):
            world.rows(change)
    entry = (
        "INSERT INTO wallet_entries (transaction_id, wallet_id, grant_id, account, amount_minor)"
        " SELECT id, wallet_id, %(g)s, account, amount FROM wallet_transactions,"
        " (VALUES ('balance', %(a)s), ('invoice', %(b)s)) AS side (account, amount) WHERE wallet_id = %(w)s"
    )
    with pytest.raises(PostgresError, match="do not add up to zero"):
        world.rows(entry, g=grant, w=wallet, a=-5, b=4)
    with pytest.raises(PostgresError, match="wallet_grants"):
        world.rows(entry, g=grant, w=wallet, a=-101, b=101)
    assert grant_row(world, grant)["balance_minor"] == 100
    check_books(world)


@pytest.mark.parametrize(
    "point",
    ["wallets.grants_written", "wallets.entries_written", "wallets.top_up_invoiced", "wallets.before_commit"],
)
def test_a_worker_killed_anywhere_does_what_is_due_once(world: World, point: str) -> None:
    wallet = add_wallet(world, add_customer(world), auto_top_up=AUTO)
    fill(world, wallet, 300, effective_at=instant("2026-01-02"))
    environment = {
        **os.environ,
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
        "METERLINE_CRASH_AT": point,
    }
    arguments = [sys.executable, "-m", "tests.support.due_once", WALLETS, "2026-01-02T00:00:00Z", wallet]
    assert subprocess.run(arguments, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    assert ledger(world, wallet) == []
    assert world.rows("SELECT id FROM invoices WHERE tenant_id = %(t)s", t=world.tenant_id) == []
    assert run_due(world, "2026-01-02") == 1
    assert ledger(world, wallet) == [at("2026-01-02", 300, "grant")]
    assert top_ups(world, wallet) == [("unpaid", instant("2026-01-02"))]
    assert run_due(world, "2026-01-02") == 0
    check_books(world)


def test_a_wallet_that_cant_hold_its_refill_holds_up_no_other(world: World) -> None:
    full, sound = (add_wallet(world, add_customer(world)) for _ in range(2))
    for wallet_id in (full, sound):
        fill(world, wallet_id, 5, every=BillingPeriod.MONTH, anchor=instant("2026-01-01"), rollover_max_minor=5)
    fill(world, full, MAX_MINOR - 6)
    assert due_wallets(world, "2026-02-01") == sorted([full, sound])
    run_due(world, "2026-02-01")
    assert ledger(world, sound)[-1] == at("2026-02-01", 5, "refill")
    assert wallet_row(world, full)["due_at"] == instant("2026-02-02")
    assert due_wallets(world, "2026-02-01") == []
    check_books(world)
