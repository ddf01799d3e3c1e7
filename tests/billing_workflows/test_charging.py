"""Payments that Stripe collects: charged once whatever happens meanwhile, and refunded by it."""

from collections.abc import Iterator

import pytest

from billing_workflows.due import run_all
from infra.postgres.customers import set_payment_method
from infra.postgres.due import Moment
from infra.postgres.invariants.check import find_broken
from infra.postgres.payment_providers import save_provider
from infra.postgres.pool import Row
from schemas.ids import Prefix, new_id
from schemas.workflows import COLLECTIONS
from tests.support.billing import ADVANCE, World, instant
from tests.support.killed import kill_at
from tests.support.stripe_double import StripeDouble, running_stripe

DAY = "2026-01-01"
LATER = "2026-01-02"


@pytest.fixture
def stripe() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


def issue(world: World, stripe: StripeDouble, method: str = "pm_card_visa") -> Row:
    """The pending payment of an invoice over 49.00 that was just finalized."""
    subscription = world.subscribe(ADVANCE, start_at=DAY)
    with world.doors.database.transaction() as connection:
        save_provider(
            connection,
            provider_id=new_id(Prefix.PAYMENT_PROVIDER),
            tenant_id=world.tenant_id,
            provider="stripe",
            secret_key="sk_test_of_the_tests",
            webhook_secret="whsec_of_the_tests",
            api_base=stripe.url,
            now=instant(DAY),
        )
        set_payment_method(
            connection,
            customer_id=subscription.customer_id,
            method={"provider": "stripe", "customer": "cus_1", "payment_method": method},
        )
    world.bill(subscription, now=DAY)
    payment = payments(world)[0]
    assert (payment["status"], payment["amount_minor"]) == ("pending", 4900)
    return payment


def payments(world: World) -> list[Row]:
    return list(world.rows("SELECT * FROM payments WHERE tenant_id = %(t)s ORDER BY id", t=world.tenant_id))


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
    check_paid_once(world, stripe, charge(world))
    charge(world, LATER)
    assert len(stripe.intents) == 1


def test_a_declined_card_leaves_the_invoice_open_and_says_why(world: World, stripe: StripeDouble) -> None:
    issue(world, stripe, "pm_card_declined")
    payment = charge(world)
    assert (payment["status"], payment["failure_code"], payment["decline_code"]) == (
        "failed",
        "card_declined",
        "insufficient_funds",
    )
    assert world.invoices()[0]["status"] == "open"
    told = world.rows("SELECT type FROM outbox WHERE object_id = %(id)s", id=payment["id"])
    assert [row["type"] for row in told] == ["payment.failed"]


@pytest.mark.parametrize("fault", [429, 500, 503, "drop"])
def test_an_answer_that_says_nothing_is_asked_again_and_charges_once(
    world: World, stripe: StripeDouble, fault: int | str
) -> None:
    issue(world, stripe)
    stripe.faults.append(fault)
    assert charge(world)["status"] == "pending"
    check_paid_once(world, stripe, charge(world, LATER))


@pytest.mark.parametrize("point", ["charge.taken", "charge.asked", "charge.noted", "charge.committed"])
def test_a_worker_killed_while_it_charges_charges_once(world: World, stripe: StripeDouble, point: str) -> None:
    payment = issue(world, stripe)
    kill_at(world, point, COLLECTIONS, DAY, payment["id"])
    check_paid_once(world, stripe, charge(world, LATER))


def test_a_key_that_may_be_forgotten_is_not_used_again(world: World, stripe: StripeDouble) -> None:
    payment = issue(world, stripe)
    stripe.faults.append(500)
    charge(world)
    world.rows(
        "UPDATE payments SET asked_at = asked_at - interval '24 hours' WHERE id = %(id)s RETURNING 1", id=payment["id"]
    )
    found = charge(world, LATER)
    assert (found["status"], found["failure_code"], len(stripe.intents)) == ("failed", "provider_unavailable", 0)
    assert find_nothing_broken(world)


def find_nothing_broken(world: World) -> bool:
    with world.doors.database.transaction() as connection:
        return not find_broken(connection)
