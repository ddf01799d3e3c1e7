"""Customer credit on the real stores: a negative invoice gives it, later invoices are paid from it, once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from infra.postgres.billing import load_subscriptions
from infra.postgres.billing_steps import save_steps
from infra.postgres.credits import load_balances
from infra.postgres.pool import Row
from pricing.billing import price_statement
from pricing.statements import next_bill, next_statement
from pricing.terms import read_terms
from schemas.billing import BilledSubscription, BillingStep
from schemas.workflows import BILLS
from tests.support.billing import ADVANCE, World, instant

WAIT_SECONDS = 30
POLL_SECONDS = 0.02


def credited(world: World) -> BilledSubscription:
    """A customer's subscription whose cancellation has left a credit of 21.00 USD."""
    subscription = world.subscribe(ADVANCE | {"amount": "31"})
    world.bill(subscription, now="2026-01-01")
    world.cancel(subscription, "2026-01-11", prorate=True)
    world.bill(subscription, now="2026-01-12")
    return subscription


def fee(amount: str) -> dict[str, object]:
    return {**ADVANCE, "amount": amount}


def entries(world: World) -> Sequence[Row]:
    return world.rows(
        "SELECT invoice_id, amount_minor FROM wallet_transactions WHERE tenant_id = %(t)s"
        " ORDER BY created_at, invoice_id",
        t=world.tenant_id,
    )


def balances(world: World, subscription: BilledSubscription) -> dict[str, Decimal]:
    with world.doors.database.transaction() as connection:
        return load_balances(connection, customer_ids=[subscription.customer_id])[subscription.customer_id]


def sums(invoice: Row) -> tuple[object, ...]:
    names = ("total_minor", "credits_applied_minor", "amount_due_minor", "status")
    return tuple(invoice[name] for name in names)


def test_a_negative_invoice_gives_credit_that_later_ones_use_up(world: World) -> None:
    first = credited(world)
    closing = world.invoices(first)[-1]
    assert sums(closing) == (-2100, 0, 0, "paid")
    assert entries(world) == [{"invoice_id": closing["id"], "amount_minor": 2100}]
    assert balances(world, first) == {"USD": Decimal("21.00")}
    second = world.subscribe(fee("14"), start_at="2026-02-01", beside=first)
    world.bill(second, now="2026-04-01")
    assert [sums(invoice) for invoice in world.invoices(second)] == [
        (1400, 1400, 0, "paid"),
        (1400, 700, 700, "open"),
        (1400, 0, 1400, "open"),
    ]
    assert [invoice["subtotal_minor"] for invoice in world.invoices(second)] == [1400, 1400, 1400]
    assert sorted(row["amount_minor"] for row in entries(world)) == [-1400, -700, 2100]
    assert balances(world, first) == {"USD": Decimal("0.00")}
    told = world.rows("SELECT data FROM outbox WHERE object_id = %(id)s", id=world.invoices(second)[1]["id"])
    assert told[0]["data"]["amount_due"] == "7.00"


def test_credit_is_used_within_the_batch_that_gave_it(world: World) -> None:
    first = world.subscribe(fee("31"))
    second = world.subscribe(fee("14"), start_at="2026-01-12", beside=first)
    world.bill(first, now="2026-01-01")
    world.cancel(first, "2026-01-11", prorate=True)
    world.bill(first, second, now="2026-01-12")
    assert sums(world.invoices(second)[0]) == (1400, 1400, 0, "paid")


def test_credit_pays_neither_another_customer_nor_another_currency(world: World) -> None:
    first = credited(world)
    stranger = world.subscribe(fee("14"), start_at="2026-02-01")
    euros = world.subscribe(fee("14"), start_at="2026-02-01", beside=first, currency="EUR")
    world.bill(stranger, euros, now="2026-02-01")
    assert [sums(world.invoices(each)[0])[1:] for each in (stranger, euros)] == [(0, 1400, "open")] * 2
    assert balances(world, first) == {"USD": Decimal("21.00")}


def test_two_workers_never_spend_the_same_credit(world: World) -> None:
    first = credited(world)
    one, two = (world.subscribe(fee("14"), start_at="2026-02-01", beside=first) for _ in range(2))
    with ThreadPoolExecutor(1) as other_worker:
        with world.doors.database.transaction() as connection:
            save_steps(connection, [first_step(world, one)], now=instant("2026-02-01"))
            billed = other_worker.submit(world.bill, two, now="2026-02-01")
            deadline = time.monotonic() + WAIT_SECONDS
            while not waiting_for_lock(world):
                assert not billed.done(), "the second did not wait for the first"
                assert time.monotonic() < deadline, "waited in vain"
                time.sleep(POLL_SECONDS)
        assert billed.result(WAIT_SECONDS).invoices == 1
    assert [sums(world.invoices(each)[0]) for each in (one, two)] == [(1400, 1400, 0, "paid"), (1400, 700, 700, "open")]
    assert balances(world, first) == {"USD": Decimal("0.00")}


def first_step(world: World, subscription: BilledSubscription) -> BillingStep:
    """The first statement of a subscription without usage, ready to be saved."""
    with world.doors.database.transaction() as connection:
        [stored] = load_subscriptions(connection, [subscription.id])
    terms = read_terms(stored)
    statement = next_statement(terms)
    assert statement is not None
    following = next_bill(terms, statement)
    return BillingStep(
        subscription=stored,
        invoice=price_statement(terms, statement, {}),
        billed_until=statement.at,
        next_bill_at=following.at,
        usage_due=following.usage_due,
        status=None,
        as_of=None,
    )


def waiting_for_lock(world: World) -> bool:
    return bool(
        world.rows(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query LIKE %(start)s",
            start="SELECT 1 FROM customers%",
        )
    )


@pytest.mark.parametrize("point", ["lines_written", "credits_written", "before_commit", "committed"])
def test_credit_and_its_invoice_are_written_together_or_not_at_all(world: World, point: str) -> None:
    giving = world.subscribe(fee("31"))
    world.bill(giving, now="2026-01-01")
    world.cancel(giving, "2026-01-11", prorate=True)
    using = world.subscribe(fee("14"), start_at="2026-01-12", beside=giving)
    for subscription, change in ((giving, 2100), (using, -1400)):
        before = (len(world.invoices()), len(entries(world)))
        kill_billing(world, subscription, point)
        kept = int(point == "committed")
        assert (len(world.invoices()), len(entries(world))) == (before[0] + kept, before[1] + kept)
        world.bill(subscription, now="2026-01-12")
        invoice = world.invoices(subscription)[-1]
        assert [row["amount_minor"] for row in entries(world) if row["invoice_id"] == invoice["id"]] == [change]
    assert balances(world, giving) == {"USD": Decimal("7.00")}


def kill_billing(world: World, subscription: BilledSubscription, point: str) -> None:
    """Bill in a process that is killed at this point."""
    environment = {
        **os.environ,
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_EVENTS_TOPIC": world.settings.events_topic,
        "METERLINE_CRASH_AT": f"billing.{point}",
    }
    arguments = [sys.executable, "-m", "tests.support.due_once", BILLS, "2026-01-12T00:00:00Z", subscription.id]
    assert subprocess.run(arguments, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
