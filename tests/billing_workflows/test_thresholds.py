"""Threshold invoices: usage is billed before its period ends when it has come to a lot, and never twice."""

from decimal import Decimal

from billing_workflows.due import load_page, run_chunk
from infra.postgres.due import Moment
from pricing.billing import MAX_MINOR
from schemas.billing import BilledSubscription
from schemas.workflows import THRESHOLDS
from tests.support.billing import ADVANCE, USAGE, World, instant
from tests.support.wallets import add_wallet, fill


def look(world: World, now: str) -> int:
    """Let everything that is due be looked at; how many invoices that makes."""
    world.stored_until(now)
    moment = Moment(now=instant(now))
    own = {row["id"] for row in world.rows("SELECT id FROM subscriptions WHERE tenant_id = %(id)s", id=world.tenant_id)}
    page = load_page(world.doors, THRESHOLDS, moment, after=None)
    ids = [each for chunk in page.chunks for each in chunk if each in own]
    return run_chunk(world.doors, THRESHOLDS, ids, moment).invoices if ids else 0


def amounts(world: World, subscription: BilledSubscription) -> list[tuple[str, list[int]]]:
    return [
        (invoice["kind"], [line["amount_minor"] for line in invoice["lines"]])
        for invoice in world.invoices(subscription)
    ]


def test_usage_is_billed_when_it_has_come_to_the_threshold_and_the_period_bills_the_rest(world: World) -> None:
    subscription = world.subscribe(ADVANCE, USAGE, invoice_threshold=Decimal(50))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 4999))
    assert look(world, "2026-01-06") == 0
    world.use(subscription, ("2026-01-06T12:00", 1000))
    assert look(world, "2026-01-06T00:30") == 0  # it has just been looked at
    assert look(world, "2026-01-07") == 1
    assert look(world, "2026-01-08") == 0
    world.use(subscription, ("2026-01-20", 7000))
    assert look(world, "2026-01-21") == 1
    world.use(subscription, ("2026-01-30", 100))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    assert amounts(world, subscription) == [
        ("subscription", [49_00]),
        ("threshold", [59_99]),
        ("threshold", [70_00]),
        ("subscription", [49_00, 1_00]),
    ]
    assert world.row(subscription)["billed_until"] == instant("2026-02-01")
    last = world.invoices(subscription)[-1]["lines"][1]
    assert (last["quantity"], last["period_start"]) == (Decimal(100), instant("2026-01-01"))


def test_what_comes_late_to_a_period_that_was_billed_in_parts_is_billed_once(world: World) -> None:
    subscription = world.subscribe(USAGE, invoice_threshold=Decimal(10))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 2000))
    assert look(world, "2026-01-07") == 1
    world.use(subscription, ("2026-01-04", 300))  # of the part that is billed
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-03", 50))
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-03-02")
    assert amounts(world, subscription) == [
        ("threshold", [20_00]),
        ("subscription", [3_00]),
        ("subscription", [0, 50]),
    ]


def test_a_commitment_counts_what_a_threshold_has_billed(world: World) -> None:
    commitment = {"amount": "50", "true_up": True}
    subscription = world.subscribe(USAGE, invoice_threshold=Decimal(10), commitment=commitment)
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 2000))
    assert look(world, "2026-01-07") == 1
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    assert amounts(world, subscription) == [("threshold", [20_00]), ("subscription", [0, 30_00])]


def test_usage_is_looked_at_while_fees_of_shorter_periods_are_billed(world: World) -> None:
    weekly = {**ADVANCE, "billing_period": "week"}
    subscription = world.subscribe(weekly, USAGE, invoice_threshold=Decimal(50))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-02", 6000))
    assert look(world, "2026-01-03") == 1
    world.bill(subscription, now="2026-01-15")
    world.use(subscription, ("2026-01-16", 5500))
    assert look(world, "2026-01-17") == 1
    world.use(subscription, ("2026-01-18", 10))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    found = [[line["amount_minor"] for line in each["lines"]] for each in world.invoices(subscription)]
    assert found == [[49_00], [60_00], [49_00], [49_00], [55_00], [49_00], [49_00], [10]]


def test_a_look_that_bills_nothing_lets_a_test_clock_go_on_at_once(world: World) -> None:
    subscription = world.subscribe(USAGE, invoice_threshold=Decimal(50))
    world.bill(subscription, now="2026-01-01")
    moment = Moment(now=instant("2026-01-02"))
    assert run_chunk(world.doors, THRESHOLDS, [subscription.id], moment).done == 1


def test_late_usage_of_a_period_that_goes_on_waits_for_the_end_of_the_period(world: World) -> None:
    weekly = {**ADVANCE, "billing_period": "week"}
    subscription = world.subscribe(weekly, USAGE, invoice_threshold=Decimal(50))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-02", 6000))
    assert look(world, "2026-01-03") == 1
    world.use(subscription, ("2026-01-02", 100))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    found = [[line["amount_minor"] for line in each["lines"]] for each in world.invoices(subscription)]
    assert found == [[49_00], [60_00], [49_00], [49_00], [49_00], [49_00], [1_00]]


def test_late_usage_beyond_what_a_threshold_has_billed_does_not_bill_that_again(world: World) -> None:
    subscription = world.subscribe(USAGE, invoice_threshold=Decimal(50))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 6000))
    assert look(world, "2026-01-07") == 1
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    world.use(subscription, ("2026-01-30", 200))  # of the part that the period's own invoice billed
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-03-02")
    assert amounts(world, subscription) == [
        ("threshold", [60_00]),
        ("subscription", [0]),
        ("subscription", [0, 2_00]),
    ]


def test_a_week_that_begins_in_the_month_before_counts_for_the_commitment_of_the_month(world: World) -> None:
    weekly = {**USAGE, "billing_period": "week"}
    commitment = {"amount": "50", "true_up": True, "billing_period": "month"}
    subscription = world.subscribe(weekly, commitment=commitment)
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-30", 1000))  # billed on the 5th of February
    world.stored_until("2026-03-02")
    world.bill(subscription, now="2026-03-02")
    added = [
        (invoice["period_end"].date().isoformat(), line["amount_minor"])
        for invoice in world.invoices(subscription)
        for line in invoice["lines"]
        if line["key"] == "commitment"
    ]
    assert added == [("2026-02-01", 50_00), ("2026-03-01", 40_00)]


def test_a_threshold_that_cant_be_billed_holds_up_no_other(world: World) -> None:
    broken, sound = (world.subscribe(USAGE, invoice_threshold=Decimal(10)) for _ in range(2))
    world.bill(broken, sound, now="2026-01-01")
    wallet_id = add_wallet(world, broken.customer_id)
    fill(world, wallet_id, MAX_MINOR)
    fill(world, wallet_id, 2001, effective_at=instant("2026-01-06"))
    for subscription in (broken, sound):
        world.use(subscription, ("2026-01-05", 2000))
    assert look(world, "2026-01-07") == 1
    assert amounts(world, sound) == [("threshold", [20_00])]
    assert world.row(broken)["threshold_check_at"] == instant("2026-01-07T01:00")
