"""Payments that Stripe collects: charged once whatever happens meanwhile, and refunded by it."""

import threading
import time
from collections.abc import Iterator

import pytest

from billing_workflows import charging
from billing_workflows.due import run_all
from infra.postgres.billing_settings import change_settings
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from infra.postgres.pool import Row
from schemas.workflows import COLLECTIONS, DUNNING
from tests.support.billing import World, instant
from tests.support.killed import kill_at
from tests.support.stripe_double import StripeDouble, running_stripe
from tests.support.stripe_payments import DAY, issue, pay_by, payments, told

LATER = "2026-01-02"


@pytest.fixture
def stripe() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


def charge(world: World, day: str = DAY) -> Row:
    run_all(world.doors, COLLECTIONS, Moment(now=instant(day)))
    return payments(world)[0]


def check_paid_once(world: World, stripe: StripeDouble, payment: Row) -> None:
    invoice = world.invoices()[0]
    assert payment["status"] == "succeeded"
    assert (invoice["status"], invoice["amount_paid_minor"]) == ("paid", 4900)
    assert (stripe.charged(), len(stripe.intents)) == (4900, 1)


def test_an_invoice_is_charged_when_it_is_finalized(world: World, stripe: StripeDouble) -> None:
    issue(world, stripe)
    payment = charge(world)
    check_paid_once(world, stripe, payment)
    charge(world, LATER)
    assert list(stripe.kept) == [payment["id"]], "the key is the payment's id, and it was asked once"


def test_a_declined_card_leaves_the_invoice_open_and_says_why(world: World, stripe: StripeDouble) -> None:
    issue(world, stripe, "pm_card_declined")
    payment = charge(world)
    assert (payment["status"], payment["failure_code"], payment["decline_code"]) == (
        "failed",
        "card_declined",
        "insufficient_funds",
    )
    assert world.invoices()[0]["status"] == "open"
    assert told(world, "payment.failed", "payment.succeeded") == ["payment.failed"]


@pytest.mark.parametrize("fault", [429, 500, 503, "drop"])
def test_an_answer_that_says_nothing_is_asked_again_and_charges_once(
    world: World, stripe: StripeDouble, fault: int | str
) -> None:
    issue(world, stripe)
    stripe.faults.append(fault)
    assert charge(world)["status"] == "pending"
    check_paid_once(world, stripe, charge(world, LATER))


@pytest.mark.parametrize("method", ["pm_card_visa", "pm_bank"])
def test_a_payment_that_the_account_knows_nothing_of_does_not_stay_pending(
    world: World, stripe: StripeDouble, method: str
) -> None:
    """Its first question had no answer, or it was being processed; then the account has not even the customer."""
    issue(world, stripe, method)
    if method == "pm_card_visa":
        stripe.faults.append(500)
    assert charge(world)["status"] == "pending"
    stripe.is_another = True
    payment = charge(world, LATER)
    assert (payment["status"], payment["failure_code"]) == ("failed", "resource_missing")
    assert world.invoices()[0]["status"] == "open"


@pytest.mark.parametrize("point", ["charge.taken", "charge.asked", "charge.noted", "charge.committed"])
def test_a_worker_killed_while_it_charges_charges_once(world: World, stripe: StripeDouble, point: str) -> None:
    _, payment = issue(world, stripe)
    kill_at(world, point, COLLECTIONS, DAY, payment["id"])
    check_paid_once(world, stripe, charge(world, LATER))


def test_a_key_that_may_be_forgotten_is_not_used_again(world: World, stripe: StripeDouble) -> None:
    _, payment = issue(world, stripe)
    stripe.faults.append(500)
    charge(world)
    world.rows(
        "UPDATE payments SET asked_at = asked_at - interval '24 hours' WHERE id = %(id)s RETURNING 1", id=payment["id"]
    )
    found = charge(world, LATER)
    assert (found["status"], found["failure_code"], len(stripe.intents)) == ("failed", "provider_unavailable", 0)
    assert find_nothing_broken(world)


def test_a_charge_whose_answer_was_lost_is_found_although_its_key_is_forgotten(
    world: World, stripe: StripeDouble
) -> None:
    _, payment = issue(world, stripe)
    stripe.faults.append("drop")
    charge(world)
    stripe.kept.clear()
    world.rows(
        "UPDATE payments SET asked_at = asked_at - interval '24 hours' WHERE id = %(id)s RETURNING 1", id=payment["id"]
    )
    check_paid_once(world, stripe, charge(world, LATER))


def test_no_transaction_is_open_while_stripe_is_asked(world: World, stripe: StripeDouble) -> None:
    _, payment = issue(world, stripe)
    stripe.together = threading.Barrier(2, timeout=30)
    asking = threading.Thread(target=charge, args=(world,))
    asking.start()
    try:
        deadline = time.monotonic() + 30
        while not stripe.together.n_waiting:
            assert time.monotonic() < deadline, "Stripe was not asked"
            time.sleep(0.02)
        (row,) = world.rows("SELECT attempts FROM payments WHERE id = %(id)s FOR UPDATE NOWAIT", id=payment["id"])
        assert row["attempts"] == 1, "whoever comes after a crash knows that somebody asked"
    finally:
        stripe.together.wait()
        asking.join()


def test_the_advance_of_a_clock_does_not_wait_long_for_stripe(
    world: World, stripe: StripeDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charging, "CLOCK_ANSWER_SECONDS", 1)
    _, payment = issue(world, stripe)
    live_by_a_clock(world, payment)
    stripe.together = threading.Barrier(2, timeout=60)  # no answer comes before another asks
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY), clock_id="clk_" + world.tenant_id))
    waiting = stripe.together
    assert not waiting.broken, "it went on while the answer was still to come"
    waiting.abort()
    stripe.together = None
    assert payments(world)[0]["status"] == "pending"
    run_all(world.doors, COLLECTIONS, Moment(now=instant(LATER), clock_id="clk_" + world.tenant_id))
    check_paid_once(world, stripe, payments(world)[0])


def test_an_outage_is_asked_after_once_a_day_by_a_test_clock(world: World, stripe: StripeDouble) -> None:
    _, payment = issue(world, stripe)
    live_by_a_clock(world, payment)
    stripe.faults.append(503)
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY), clock_id="clk_" + world.tenant_id))
    assert payments(world)[0]["ask_at"] == instant(LATER)


def live_by_a_clock(world: World, payment: Row) -> None:
    """A test clock `clk_` and the tenant's id, at DAY, of a payment that was asked about five times."""
    world.rows(
        "INSERT INTO test_clocks (id, tenant_id, name, now, status, created_at)"
        " VALUES ('clk_' || %(t)s, %(t)s, 'c', %(now)s, 'ready', %(now)s) RETURNING 1",
        t=world.tenant_id,
        now=instant(DAY),
    )
    world.rows(
        "UPDATE payments SET test_clock_id = 'clk_' || tenant_id, attempts = 5 WHERE id = %(id)s RETURNING 1",
        id=payment["id"],
    )


def test_one_that_is_slow_to_answer_does_not_hold_up_the_others(world: World, stripe: StripeDouble) -> None:
    for _ in range(3):
        issue(world, stripe)
    stripe.together = threading.Barrier(3)  # nobody is answered before all have asked
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    assert [payment["status"] for payment in payments(world)] == ["succeeded"] * 3


def test_dunning_charges_again_and_a_later_success_ends_it(world: World, stripe: StripeDouble) -> None:
    subscription, _ = issue(world, stripe, "pm_card_declined")
    with world.doors.database.transaction() as connection:
        schedule = {"retry_days": [2, 4, 6], "final": "cancel", "final_days": 10}
        change_settings(connection, tenant_id=world.tenant_id, changes={"dunning": schedule})
    for day in range(1, 5):
        work(world, f"2026-01-{day:02}")
    assert [payment["status"] for payment in payments(world)] == ["failed", "failed"]
    assert world.invoices()[0]["dunning"]["attempts"] == 1
    pay_by(world, subscription, "pm_card_visa")
    for day in range(5, 13):
        work(world, f"2026-01-{day:02}")
    assert [payment["status"] for payment in payments(world)] == ["failed", "failed", "succeeded"]
    assert world.invoices()[0]["status"] == "paid"
    types = ("subscription.past_due", "subscription.recovered", "subscription.canceled", "payment.succeeded")
    assert told(world, *types) == ["subscription.past_due", "subscription.recovered", "payment.succeeded"]
    assert find_nothing_broken(world)


def work(world: World, day: str) -> None:
    for kind in (DUNNING, COLLECTIONS):
        run_all(world.doors, kind, Moment(now=instant(day)))


def find_nothing_broken(world: World) -> bool:
    with world.doors.database.transaction() as connection:
        return not find_broken(connection)
