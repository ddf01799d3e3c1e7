"""Invoices that are not paid in time: told of, reminded of, given up, and what that does to their subscriptions."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from billing_workflows.due import run_all
from billing_workflows.dunning import run_dunning
from infra.postgres.billing_settings import change_settings
from infra.postgres.due import Moment
from infra.postgres.dunning import earliest_dunning
from infra.postgres.invariants.check import find_broken
from infra.postgres.invoice_lifecycle import lock_invoice, mark_uncollectible, reduce_due, void_invoice
from infra.postgres.pool import Row
from infra.postgres.subscriptions import load_subscription
from schemas.billing import BilledSubscription
from schemas.workflows import DUNNING
from tests.support.billing import ADVANCE, World, instant

SCHEDULE = {"reminder_days": [2, 5], "block_days": 7, "final": "cancel", "final_days": 10}


def schedule(world: World, **dunning: Any) -> None:
    with world.doors.database.transaction() as connection:
        change_settings(connection, tenant_id=world.tenant_id, changes={"dunning": dunning or SCHEDULE})


def issue(world: World, *, start_at: str = "2026-01-01") -> tuple[BilledSubscription, Row]:
    """A subscription with an open invoice that is due on January 1st."""
    subscription = world.subscribe(ADVANCE, start_at=start_at)
    world.bill(subscription, now=start_at)
    return subscription, world.invoices(subscription)[-1]


def dun(world: World, *days: str) -> None:
    for day in days:
        run_all(world.doors, DUNNING, Moment(now=instant(day)))


def told(world: World) -> list[str]:
    rows = world.rows(
        "SELECT type, created_at FROM outbox WHERE tenant_id = %(tenant)s AND (type ~ '^subscription'"
        " OR type IN ('invoice.overdue', 'invoice.payment_reminder', 'invoice.marked_uncollectible')) ORDER BY no",
        tenant=world.tenant_id,
    )
    return [f"{row['type']} {row['created_at']:%m-%d}" for row in rows]


def status(world: World, subscription: BilledSubscription, now: str) -> str:
    with world.doors.database.transaction() as connection:
        row = load_subscription(
            connection, tenant_id=world.tenant_id, subscription_id=subscription.id, now=instant(now)
        )
    assert row is not None
    return row["status_now"]


def broken(world: World) -> Sequence[str]:
    """The rules of dunning that do not hold."""
    with world.doors.database.transaction() as connection:
        return [rule for rule in find_broken(connection) if "past_due" in rule or "overdue" in rule]


def change(world: World, invoice: Row, act: Any, **values: Any) -> None:
    """Do something to an invoice, as whoever pays, credits or voids it does."""
    with world.doors.database.transaction() as connection:
        row = lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=invoice["id"])
        act(connection, row, now=instant("2026-01-04"), **values)


def alter(world: World, change: str) -> None:
    with world.doors.database.transaction() as connection:
        connection.execute(f"ALTER TABLE invoices {change}".encode())


def test_an_invoice_goes_through_its_schedule_once_however_often_it_is_looked_at(world: World) -> None:
    schedule(world)
    subscription, _ = issue(world)
    for day in range(1, 20):
        dun(world, f"2026-01-{day:02}", f"2026-01-{day:02}")
    assert status(world, subscription, "2026-01-20") == "canceled"
    world.bill(subscription, now="2026-01-11")
    assert told(world) == [
        "invoice.overdue 01-02",
        "subscription.past_due 01-02",
        "invoice.payment_reminder 01-03",
        "invoice.payment_reminder 01-06",
        "invoice.marked_uncollectible 01-11",
        "subscription.canceled 01-11",
    ]
    assert [(one["status"], one["total_minor"]) for one in world.invoices(subscription)] == [("uncollectible", 4900)]
    row = world.row(subscription)
    assert (row["status"], row["cancel_at"], row["past_due_since"]) == ("canceled", instant("2026-01-11"), None)
    assert broken(world) == []


def test_without_a_schedule_an_invoice_is_told_of_once_and_its_subscription_goes_on(world: World) -> None:
    subscription, invoice = issue(world)
    dun(world, *(f"2026-01-{day:02}" for day in range(1, 31)))
    assert told(world) == ["invoice.overdue 01-02"]
    assert status(world, subscription, "2026-01-30") == "active"
    schedule(world)
    dun(world, "2026-03-01")
    assert told(world) == ["invoice.overdue 01-02"]
    change(world, invoice, void_invoice)
    assert "subscription.recovered" not in str(told(world))


def test_an_invoice_keeps_the_schedule_that_it_became_overdue_under(world: World) -> None:
    schedule(world)
    issue(world)
    dun(world, "2026-01-02")
    schedule(world, reminder_days=[300])
    dun(world, *(f"2026-01-{day:02}" for day in range(3, 20)))
    assert told(world)[2:] == [
        "invoice.payment_reminder 01-03",
        "invoice.payment_reminder 01-06",
        "invoice.marked_uncollectible 01-11",
    ]


def test_steps_that_come_late_come_as_one_and_the_end_leaves_a_day_after_them(world: World) -> None:
    schedule(world)
    issue(world)
    dun(world, "2026-03-01", "2026-03-01", "2026-03-01T23:00:00", "2026-03-02")
    assert told(world) == [
        "invoice.overdue 03-01",
        "invoice.payment_reminder 03-01",
        "subscription.past_due 03-01",
        "invoice.marked_uncollectible 03-02",
    ]


@pytest.mark.parametrize("way", ["paid", "credited", "void", "uncollectible"])
def test_a_subscription_is_past_due_until_the_last_of_its_overdue_invoices_is_open_no_more(
    world: World, way: str
) -> None:
    schedule(world, reminder_days=[300], block_days=3)
    subscription, first = issue(world)
    world.bill(subscription, now="2026-02-01")
    second = world.invoices(subscription)[-1]
    dun(world, "2026-01-02", "2026-02-02")
    assert status(world, subscription, "2026-02-02") == "past_due"
    row = world.row(subscription)
    assert (row["past_due_since"], row["blocked_at"]) == (instant("2026-01-02"), instant("2026-01-04"))
    change(world, first, reduce_due, paid_minor=4900)
    row = world.row(subscription)
    assert (row["past_due_since"], row["blocked_at"]) == (instant("2026-02-02"), instant("2026-02-04"))
    assert told(world)[-1] == "invoice.overdue 02-02"
    match way:
        case "paid":
            change(world, second, reduce_due, paid_minor=100)
            assert status(world, subscription, "2026-02-02") == "past_due"
            change(world, second, reduce_due, paid_minor=4800)
        case "credited":
            change(world, second, reduce_due, adjusted_minor=4900)
        case "void":
            change(world, second, void_invoice)
        case _:
            change(world, second, mark_uncollectible)
    assert status(world, subscription, "2026-02-02") == "active"
    assert told(world).count("subscription.past_due 01-02") == 1
    assert told(world)[-1] == "subscription.recovered 01-04"
    dun(world, "2026-12-31")
    assert told(world)[-1] == "subscription.recovered 01-04"
    assert broken(world) == []


def test_nothing_is_done_while_money_is_on_its_way(world: World) -> None:
    schedule(world)
    subscription, invoice = issue(world)
    dun(world, "2026-01-02")
    world.rows(
        "INSERT INTO payments (id, tenant_id, invoice_id, customer_id, currency, amount_minor, provider, status,"
        " created_at) SELECT 'pay_' || id, tenant_id, id, customer_id, currency, 4900, 'stripe', 'pending', due_at"
        " FROM invoices WHERE id = %(id)s RETURNING 1",
        id=invoice["id"],
    )
    dun(world, *(f"2026-01-{day:02}" for day in range(3, 20)))
    assert told(world) == ["invoice.overdue 01-02", "subscription.past_due 01-02"]
    world.rows("UPDATE payments SET status = 'failed' WHERE id = %(id)s RETURNING 1", id="pay_" + invoice["id"])
    dun(world, "2026-01-20", "2026-01-21")
    assert told(world)[2:] == ["invoice.payment_reminder 01-20", "invoice.marked_uncollectible 01-21"]
    assert status(world, subscription, "2026-01-21") == "canceled"


def test_one_invoice_whose_step_cannot_be_taken_holds_up_no_other_and_says_why(world: World) -> None:
    schedule(world, reminder_days=[2], final="uncollectible", final_days=4)
    bad, good = issue(world)[1], issue(world)[1]
    dun(world, "2026-01-02", "2026-01-03")
    constraint = f"ADD CONSTRAINT held CHECK (id <> '{bad['id']}' OR status <> 'uncollectible')"
    alter(world, constraint)
    try:
        result = run_dunning(world.doors, [bad["id"], good["id"]], Moment(now=instant("2026-01-05")))
    finally:
        alter(world, "DROP CONSTRAINT held")
    assert (result.done, result.parked) == (1, 1)
    rows = {one["id"]: one for one in world.invoices()}
    assert rows[good["id"]]["status"] == "uncollectible"
    assert (rows[bad["id"]]["status"], rows[bad["id"]]["dunning_at"]) == ("open", instant("2026-01-06"))
    assert "held" in rows[bad["id"]]["dunning_failure"]
    dun(world, "2026-01-05T12:00:00", "2026-01-06")
    assert {one["status"] for one in world.invoices()} == {"uncollectible"}
    assert {one["dunning_failure"] for one in world.invoices()} == {None}


def test_two_invoices_of_one_subscription_cancel_it_once(world: World) -> None:
    schedule(world, final="cancel", final_days=2)
    subscription, _ = issue(world)
    dun(world, "2026-01-02")
    world.bill(subscription, now="2026-02-01")
    dun(world, "2026-02-02", "2026-02-03")
    assert [one["status"] for one in world.invoices(subscription)] == ["uncollectible", "uncollectible"]
    assert world.row(subscription)["cancel_at"] == instant("2026-02-02")


def test_a_chunk_that_is_done_again_takes_no_step_twice(world: World) -> None:
    schedule(world)
    _, invoice = issue(world)
    done = [
        run_dunning(world.doors, [invoice["id"]], Moment(now=instant(day))).done
        for day in ("2026-01-01", "2026-01-02", "2026-01-02", "2026-01-03", "2026-01-03", "2026-01-04")
    ]
    assert done == [0, 1, 0, 1, 0, 0]
    assert told(world)[2:] == ["invoice.payment_reminder 01-03"]


def test_an_invoice_that_is_paid_by_now_is_passed_by(world: World) -> None:
    schedule(world)
    subscription, invoice = issue(world)
    dun(world, "2026-01-02")
    change(world, invoice, reduce_due, paid_minor=4900)
    assert run_dunning(world.doors, [invoice["id"]], Moment(now=instant("2026-01-11"))).done == 0
    assert status(world, subscription, "2026-01-11") == "active"
    assert told(world)[-1] == "subscription.recovered 01-04"


def test_invoices_of_a_test_clocks_customers_are_looked_at_by_their_clock_alone(world: World) -> None:
    schedule(world)
    _, invoice = issue(world)
    clock_id = "clk_" + world.tenant_id
    world.rows(
        "WITH made AS (INSERT INTO test_clocks (id, tenant_id, name, now, status, created_at)"
        " VALUES (%(clock)s, %(tenant)s, 'clock', '2026-01-01', 'ready', '2026-01-01') RETURNING id)"
        " SELECT id FROM made",
        clock=clock_id,
        tenant=world.tenant_id,
    )
    world.rows(
        "UPDATE invoices SET test_clock_id = %(clock)s WHERE id = %(id)s RETURNING 1", clock=clock_id, id=invoice["id"]
    )
    with world.doors.database.transaction() as connection:
        assert earliest_dunning(connection, [clock_id]) == {clock_id: instant("2026-01-02")}
    dun(world, "2026-06-01")
    assert told(world) == []
    run_all(world.doors, DUNNING, Moment(now=instant("2026-01-02"), clock_id=clock_id))
    assert told(world) == ["invoice.overdue 01-02", "subscription.past_due 01-02"]
    with world.doors.database.transaction() as connection:
        assert earliest_dunning(connection, [clock_id]) == {clock_id: instant("2026-01-03")}


@pytest.mark.parametrize(
    ("point", "day"),
    [
        ("dunning.locked", "2026-01-02"),
        ("dunning.told", "2026-01-03"),
        ("dunning.before_commit", "2026-01-11"),
        ("dunning.committed", "2026-01-11"),
    ],
)
def test_a_worker_killed_anywhere_leaves_each_step_taken_once(world: World, point: str, day: str) -> None:
    schedule(world)
    subscription, invoice = issue(world)
    days = [f"2026-01-{number:02}" for number in range(2, 12)]
    dun(world, *days[: days.index(day)])
    environment = os.environ | {
        "METERLINE_POSTGRES_DSN": world.settings.postgres_dsn,
        "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
        "METERLINE_CRASH_AT": point,
    }
    arguments = [sys.executable, "-m", "tests.support.due_once", DUNNING, f"{day}T00:00:00Z", invoice["id"]]
    assert subprocess.run(arguments, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    dun(world, *days[days.index(day) :])
    assert told(world) == [
        "invoice.overdue 01-02",
        "subscription.past_due 01-02",
        "invoice.payment_reminder 01-03",
        "invoice.payment_reminder 01-06",
        "invoice.marked_uncollectible 01-11",
    ]
    assert status(world, subscription, "2026-01-11") == "canceled"
    assert broken(world) == []
