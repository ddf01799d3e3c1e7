"""Usage that comes after a subscription's last statement is billed, or credited, once and by difference."""

from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from billing_workflows.late_checks import load_late_checks, run_late_checks
from infra.postgres.billing import park
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from pricing.late_checks import next_late_check
from schemas.billing import LATE_USAGE_HORIZON, BilledSubscription
from schemas.workflows import LATE_CHECKS, ChunkResult
from tests.billing_workflows.test_timeline import stored
from tests.support.billing import ADVANCE, USAGE, World, instant
from tests.support.killed import kill_at

CLOSED = "2026-01-20"


def end(world: World, *, used: int = 1000) -> BilledSubscription:
    """A subscription of a fee and usage that has had its last statement."""
    subscription = world.subscribe(ADVANCE, USAGE, end_at=instant(CLOSED))
    world.use(subscription, ("2026-01-10", used))
    world.stored_until("2027-06-01")
    world.bill(subscription, now="2026-01-21")
    return subscription


def look(world: World, subscription: BilledSubscription, day: str) -> ChunkResult:
    return run_late_checks(world.doors, [subscription.id], Moment(now=instant(day)))


def billed(world: World, subscription: BilledSubscription) -> list[tuple[str, int, str]]:
    return [(each["kind"], each["total_minor"], each["status"]) for each in world.invoices(subscription)]


def test_what_comes_after_the_last_statement_is_billed_once_on_an_invoice_of_its_own(world: World) -> None:
    subscription = end(world)
    world.use(subscription, ("2026-01-11", 300))
    assert look(world, subscription, "2026-01-20") == ChunkResult()  # it is not time yet
    assert look(world, subscription, "2026-01-21") == ChunkResult(invoices=1, done=1)
    assert look(world, subscription, "2026-01-21") == ChunkResult()
    assert look(world, subscription, "2026-01-22") == ChunkResult(done=1)
    [*_, closing, adjustment] = world.invoices(subscription)
    assert (closing["kind"], adjustment["kind"]) == ("closing", "adjustment")
    assert adjustment["status"] == "open"
    [line] = adjustment["lines"]
    assert (line["quantity"], line["amount_minor"]) == (Decimal(300), 3_00)
    assert line["description"] == "Tokens: correction (1 Jan 2026 – 19 Jan 2026)"
    with world.doors.database.transaction() as connection:
        assert find_broken(connection) == {}


def test_what_is_taken_back_after_the_last_statement_becomes_credit(world: World) -> None:
    subscription = end(world)
    world.use(subscription, ("2026-01-10", -400))
    look(world, subscription, "2026-01-21")
    assert billed(world, subscription)[-1] == ("adjustment", -4_00, "paid")
    balance = world.rows("SELECT granted_minor FROM wallets WHERE customer_id = %(id)s", id=subscription.customer_id)
    assert [row["granted_minor"] for row in balance] == [4_00]


def test_a_second_look_sees_what_the_first_has_billed(world: World) -> None:
    subscription = end(world)
    world.use(subscription, ("2026-01-11", 300))
    look(world, subscription, "2026-01-21")
    world.use(subscription, ("2026-01-12", 200))
    look(world, subscription, "2026-01-22")
    assert [total for _, total, _ in billed(world, subscription)[-2:]] == [3_00, 2_00]


def test_a_subscription_without_usage_is_never_looked_at(world: World) -> None:
    subscription = world.subscribe(ADVANCE, end_at=instant(CLOSED))
    world.bill(subscription, now="2026-01-21")
    row = world.row(subscription)
    assert (row["status"], row["late_check_at"]) == ("ended", None)


def test_looks_become_rarer_and_end_with_the_horizon() -> None:
    closed_at = instant(CLOSED)
    looks = [closed_at]
    while (following := next_late_check(closed_at, looks[-1])) is not None:
        looks.append(following)
    assert [(at - closed_at).days for at in looks[:9]] == [0, 1, 2, 4, 8, 16, 32, 62, 92]
    assert looks[-1] == closed_at + LATE_USAGE_HORIZON
    assert max(b - a for a, b in pairwise(looks)) <= timedelta(days=30)


def test_percent_discounts_hold_for_what_comes_late_and_amounts_do_not(world: World) -> None:
    discounts = [{"percent": "10", "duration": "forever"}, {"amount": "1", "duration": "forever"}]
    subscription = world.subscribe(USAGE, end_at=instant(CLOSED), discounts=discounts)
    world.use(subscription, ("2026-01-10", 1000))
    world.stored_until("2027-06-01")
    world.bill(subscription, now="2026-01-21")
    world.use(subscription, ("2026-01-11", 500))
    look(world, subscription, "2026-01-21")
    assert [total for _, total, _ in billed(world, subscription)] == [8_00, 4_50]


def test_one_that_is_parked_is_passed_by(world: World) -> None:
    subscription = end(world)
    moment = Moment(now=instant("2026-01-21"))
    assert [due.id for due in load_late_checks(world.doors, moment, None, 10) if due.id == subscription.id]
    with world.doors.database.transaction() as connection:
        assert park(connection, stored(world, subscription), reason="somebody looks at it", now=moment.now)
    assert not [due.id for due in load_late_checks(world.doors, moment, None, 10) if due.id == subscription.id]


@pytest.mark.parametrize("point", ["before_commit", "committed"])
def test_a_worker_killed_anywhere_leaves_one_adjustment(world: World, point: str) -> None:
    subscription = end(world)
    world.use(subscription, ("2026-01-11", 300))
    kill_at(world, f"billing.{point}", LATE_CHECKS, "2026-01-21", subscription.id)
    look(world, subscription, "2026-01-21")
    look(world, subscription, "2026-01-22")
    assert [total for kind, total, _ in billed(world, subscription) if kind == "adjustment"] == [3_00]
