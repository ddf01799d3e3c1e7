"""Refunds by Stripe: once each whatever happens meanwhile, and what could not go back is seen and tried again."""

from collections.abc import Iterator

import pytest

from billing_workflows.due import run_all
from infra.payments.providers import Outcome, Result
from infra.postgres.charges import note_outcome
from infra.postgres.due import Moment
from infra.postgres.invoice_lifecycle import lock_invoice, void_invoice
from infra.postgres.pool import Row
from infra.postgres.refunds import load_refund, refund_credit_note, retry_refund
from schemas.errors import Conflict
from schemas.workflows import COLLECTIONS, REFUNDS
from tests.support.billing import World, instant
from tests.support.killed import kill_at
from tests.support.stripe_double import StripeDouble, running_stripe
from tests.support.stripe_payments import DAY, issue, payments, told

LATER = "2026-01-02"
EVENTS = ("refund.created", "refund.succeeded", "refund.failed")


@pytest.fixture
def stripe() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


def paid(world: World, stripe: StripeDouble) -> Row:
    """A payment of 49.00 that Stripe has collected."""
    issue(world, stripe)
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    return payments(world)[0]


def give_back(world: World, payment: Row, amount_minor: int) -> None:
    """What a credit note asks for; the note itself is made over HTTP, by tests of the API."""
    note = world.rows(
        "INSERT INTO credit_notes (id, tenant_id, invoice_id, customer_id, number, kind, currency, amount_minor,"
        " tax_minor, adjusted_minor, credit_minor, refund_minor, taxes, metadata, created_at)"
        " SELECT 'crn_' || gen_random_uuid(), tenant_id, invoice_id, customer_id, gen_random_uuid(), 'refund',"
        " currency, %(amount)s, 0, 0, 0, %(amount)s, '[]', '{}', created_at"
        " FROM payments WHERE id = %(id)s RETURNING id",
        id=payment["id"],
        amount=amount_minor,
    )[0]
    with world.doors.database.transaction() as connection:
        invoice = lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=payment["invoice_id"])
        refund_credit_note(connection, invoice, credit_note_id=note["id"], amount_minor=amount_minor, now=instant(DAY))


def refunds(world: World) -> list[Row]:
    return list(world.rows("SELECT * FROM refunds WHERE tenant_id = %(t)s ORDER BY id", t=world.tenant_id))


def states(world: World) -> list[tuple[str, int]]:
    return [(refund["status"], refund["amount_minor"]) for refund in refunds(world)]


def refund(world: World, day: str = DAY) -> list[tuple[str, int]]:
    run_all(world.doors, REFUNDS, Moment(now=instant(day)))
    return states(world)


def retry(world: World, refund_id: str) -> None:
    with world.doors.database.transaction() as connection:
        row = load_refund(connection, refund_id)
        assert row is not None
        lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=row["invoice_id"])
        row = load_refund(connection, refund_id, lock=True)
        assert row is not None
        retry_refund(connection, row, now=instant(DAY))


def test_parts_go_back_and_never_more_than_was_charged(world: World, stripe: StripeDouble) -> None:
    payment = paid(world, stripe)
    give_back(world, payment, 1000)
    give_back(world, payment, 9000)
    assert refund(world) == [("succeeded", 1000), ("succeeded", 3900)]
    assert stripe.kept.keys() == {payment["id"], *(row["id"] for row in refunds(world))}, "a key is what it is for"
    assert refund(world, LATER) == [("succeeded", 1000), ("succeeded", 3900)]
    assert stripe.refunded() == 4900


def test_what_is_tried_again_goes_back_by_a_payment_that_has_so_much_left(world: World, stripe: StripeDouble) -> None:
    older = paid_twice(world, paid(world, stripe))
    newer = "pay_z" + older["id"]
    fail(world, stripe, older, 1900)  # by the newer one
    give_back(world, older, 1000)  # which has all of it left
    [failed] = [row for row in refunds(world) if row["status"] == "failed"]
    retry(world, failed["id"])
    assert [(row["payment_id"], row["amount_minor"]) for row in refunds(world)] == [
        (newer, 1900), (newer, 1000), (older["id"], 1900),
    ]  # fmt: skip


def test_what_no_payment_has_left_is_not_tried_again(world: World, stripe: StripeDouble) -> None:
    older = paid_twice(world, paid(world, stripe))
    fail(world, stripe, older, 1900)
    give_back(world, older, 3200)  # all of the newer one, and so much of the older that 1,700 are left
    [failed] = [row for row in refunds(world) if row["status"] == "failed"]
    with pytest.raises(Conflict, match="by hand") as refused:
        retry(world, failed["id"])
    assert (refused.value.code, len(refunds(world))) == ("refund.nothing_left", 3)


def fail(world: World, stripe: StripeDouble, payment: Row, amount_minor: int) -> None:
    """A note whose refund the customer's bank does not take."""
    stripe.refund_status = "failed"
    give_back(world, payment, amount_minor)
    assert refund(world) == [("failed", amount_minor)]
    stripe.refund_status = "succeeded"


def paid_twice(world: World, payment: Row) -> Row:
    """30.00 of the 49.00 by this payment, and 19.00 by a newer one."""
    world.rows("UPDATE payments SET amount_minor = 3000 WHERE id = %(id)s RETURNING 1", id=payment["id"])
    world.rows(
        "INSERT INTO payments (id, tenant_id, invoice_id, customer_id, currency, amount_minor, provider, reference,"
        " status, created_at, succeeded_at) SELECT 'pay_z' || id, tenant_id, invoice_id, customer_id, currency, 1900,"
        " provider, 'pi_newer', 'succeeded', created_at, created_at FROM payments WHERE id = %(id)s RETURNING 1",
        id=payment["id"],
    )
    return payment


def test_the_newest_payment_gives_back_first(world: World, stripe: StripeDouble) -> None:
    payment = paid_twice(world, paid(world, stripe))
    give_back(world, payment, 2000)
    parts = {(row["payment_id"], row["amount_minor"]) for row in refunds(world)}
    assert parts == {("pay_z" + payment["id"], 1900), (payment["id"], 100)}


@pytest.mark.parametrize("fault", [500, "drop"])
def test_an_answer_that_says_nothing_is_asked_again_and_pays_back_once(
    world: World, stripe: StripeDouble, fault: int | str
) -> None:
    give_back(world, paid(world, stripe), 4900)
    stripe.faults.append(fault)
    assert refund(world) == [("pending", 4900)]
    assert refund(world, LATER) == [("succeeded", 4900)]
    assert (stripe.refunded(), len(stripe.refunds)) == (4900, 1)


def test_a_refund_that_was_made_is_found_although_its_answer_was_lost_and_its_key_is_forgotten(
    world: World, stripe: StripeDouble
) -> None:
    give_back(world, paid(world, stripe), 4900)
    stripe.faults.append("drop")
    refund(world)
    forget_keys(world, stripe)
    assert refund(world, LATER) == [("succeeded", 4900)]
    assert (stripe.refunded(), len(stripe.refunds)) == (4900, 1)


def test_a_refund_whose_key_may_be_forgotten_is_not_asked_for_again(world: World, stripe: StripeDouble) -> None:
    give_back(world, paid(world, stripe), 4900)
    stripe.faults.append(500)
    refund(world)
    forget_keys(world, stripe)
    assert refund(world, LATER) == [("failed", 4900)]
    assert (refunds(world)[0]["failure_code"], len(stripe.refunds)) == ("provider_unavailable", 0)


def forget_keys(world: World, stripe: StripeDouble) -> None:
    """Let a day pass at Stripe since the refunds were asked for."""
    stripe.kept.clear()
    world.rows(
        "UPDATE refunds SET asked_at = asked_at - interval '24 hours' WHERE tenant_id = %(t)s RETURNING 1",
        t=world.tenant_id,
    )


@pytest.mark.parametrize("point", ["refund.taken", "refund.asked", "refund.noted", "refund.committed"])
def test_a_worker_killed_while_it_pays_back_does_it_once(world: World, stripe: StripeDouble, point: str) -> None:
    give_back(world, paid(world, stripe), 4900)
    kill_at(world, point, REFUNDS, DAY, refunds(world)[0]["id"])
    assert refund(world, LATER) == [("succeeded", 4900)]
    assert (stripe.refunded(), len(stripe.refunds)) == (4900, 1)
    assert told(world, *EVENTS) == ["refund.created", "refund.succeeded"]


def test_a_refund_that_takes_its_time_is_asked_after(world: World, stripe: StripeDouble) -> None:
    give_back(world, paid(world, stripe), 4900)
    stripe.refund_status = "pending"
    assert refund(world) == [("pending", 4900)]
    stripe.refunds["re_1"]["status"] = "succeeded"
    assert refund(world, LATER) == [("succeeded", 4900)]


@pytest.mark.parametrize("was_made", [True, False])
def test_a_refund_that_the_account_knows_nothing_of_does_not_stay_pending(
    world: World, stripe: StripeDouble, was_made: bool
) -> None:
    give_back(world, paid(world, stripe), 4900)
    if was_made:
        stripe.refund_status = "pending"
    else:
        stripe.faults.append(500)
    assert refund(world) == [("pending", 4900)]
    stripe.is_another = True
    assert refund(world, LATER) == [("failed", 4900)]
    assert refunds(world)[0]["failure_code"] == "resource_missing"


def test_a_failed_refund_is_told_of_and_tried_again_once(world: World, stripe: StripeDouble) -> None:
    give_back(world, paid(world, stripe), 4900)
    stripe.refund_status = "failed"
    assert refund(world) == [("failed", 4900)]
    first = refunds(world)[0]["id"]
    stripe.refund_status = "succeeded"
    retry(world, first)
    assert refund(world) == [("failed", 4900), ("succeeded", 4900)]
    for row in refunds(world):
        with pytest.raises(Conflict) as refused:
            retry(world, row["id"])
        expected = "refund.already_retried" if row["id"] == first else "refund.not_failed"
        assert refused.value.code == expected
    assert stripe.refunded() == 4900
    assert told(world, *EVENTS) == ["refund.created", "refund.failed", "refund.created", "refund.succeeded"]


def test_a_part_that_failed_and_went_back_later_leaves_all_of_the_rest_to_the_next(
    world: World, stripe: StripeDouble
) -> None:
    payment = paid(world, stripe)
    give_back(world, payment, 1000)
    stripe.refund_status = "failed"
    refund(world)
    stripe.refund_status = "succeeded"
    retry(world, refunds(world)[0]["id"])
    give_back(world, payment, 9000)
    assert refund(world) == [("failed", 1000), ("succeeded", 1000), ("succeeded", 3900)]
    assert stripe.refunded() == 4900


def test_money_for_an_invoice_that_was_voided_meanwhile_goes_back(world: World, stripe: StripeDouble) -> None:
    _, payment = issue(world, stripe, "pm_card_declined")
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    with world.doors.database.transaction() as connection:
        invoice = lock_invoice(connection, tenant_id=world.tenant_id, id_or_number=payment["invoice_id"])
        void_invoice(connection, invoice, now=instant(DAY))
    for _ in range(2):
        with world.doors.database.transaction() as connection:
            outcome = Outcome(result=Result.SUCCEEDED, reference="pi_1")
            note_outcome(
                connection, tenant_id=world.tenant_id, payment_id=payment["id"], outcome=outcome, now=instant(DAY)
            )
    assert refund(world) == [("succeeded", 4900)]
    assert payments(world)[0]["excess_minor"] == 4900
    assert (world.invoices()[0]["status"], world.invoices()[0]["amount_paid_minor"]) == ("void", 0)
