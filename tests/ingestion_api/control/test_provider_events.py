"""What Stripe tells: noted once, in any order, and only of what the account's tenant has."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from billing_workflows.due import run_all
from infra.postgres.due import Moment
from infra.postgres.pool import Row
from schemas.workflows import COLLECTIONS, REFUNDS
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import World, instant, make_world
from tests.support.stripe_double import StripeDouble, running_stripe
from tests.support.stripe_payments import ACCOUNT, DAY, connect, issue, payments, told

OUTCOMES = ("payment.succeeded", "payment.failed", "payment.disputed", "payment.refunded")


@pytest.fixture(scope="module")
def stripe() -> Iterator[StripeDouble]:
    with running_stripe() as double:
        yield double


def tell(api: Api, account: str, kind: str, made: dict[str, Any]) -> None:
    """Send a signed event of this object to an account's path."""
    body = json.dumps({"type": kind, "data": {"object": made}})
    at = int(time.time())
    signature = hmac.new(ACCOUNT["webhook_secret"].encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    response = api.with_key(None).post(
        f"/providers/stripe/{account}/events",
        content=body,
        headers={"stripe-signature": f"t={at},v1={signature}"},
    )
    assert response.status_code == 204, response.text


def intent(payment: Row, status: str, **more: Any) -> dict[str, Any]:
    metadata = {"meterline_payment": payment["id"]}
    return {"id": "pi_told", "status": status, "amount": 4900, "currency": "usd", "metadata": metadata} | more


def state(world: World) -> tuple[str, str]:
    """Of the first payment, and of its invoice."""
    return payments(world)[0]["status"], world.invoices()[0]["status"]


def test_a_payment_follows_what_is_told_and_a_success_is_for_good(
    world: World, billed: Api, stripe: StripeDouble
) -> None:
    _, payment = issue(world, stripe)
    account = connect(world, stripe)
    expected = [
        ("processing", ("pending", "open")),
        ("requires_payment_method", ("failed", "open")),
        ("processing", ("failed", "open")),
        ("succeeded", ("succeeded", "paid")),
        ("succeeded", ("succeeded", "paid")),
        ("requires_payment_method", ("failed", "open")),
    ]
    for status, after in expected[:-1]:
        tell(billed, account, "payment_intent.processing", intent(payment, status))
        assert state(world) == after
    tell(billed, account, "payment_intent.payment_failed", intent(payment, expected[-1][0]))
    assert state(world) == ("succeeded", "paid")
    assert told(world, *OUTCOMES) == ["payment.failed", "payment.succeeded"]
    assert payments(world)[0]["excess_minor"] == 0


def test_what_is_not_the_tenants_own_payment_is_acknowledged_and_changes_nothing(
    world: World, billed: Api, stripe: StripeDouble
) -> None:
    _, payment = issue(world, stripe)
    other = make_world(billed.settings)
    try:
        elsewhere = connect(other, stripe)
        tell(billed, elsewhere, "payment_intent.succeeded", intent(payment, "succeeded"))
    finally:
        other.close()
    account = connect(world, stripe)
    for made in (
        intent(payment, "succeeded", amount=1),
        intent(payment, "succeeded", currency="eur"),
        intent(payment, "succeeded", metadata={"meterline_payment": "pay_unknown"}),
        intent(payment, "succeeded", metadata=None),
    ):
        tell(billed, account, "payment_intent.succeeded", made)
    assert state(world) == ("pending", "open")
    tell(billed, account, "payment_intent.succeeded", intent(payment, "succeeded"))
    assert state(world) == ("succeeded", "paid")


def test_a_dispute_and_a_refund_made_at_stripe_are_told_once_each(
    world: World, billed: Api, stripe: StripeDouble
) -> None:
    _, payment = issue(world, stripe)
    account = connect(world, stripe)
    tell(billed, account, "payment_intent.succeeded", intent(payment, "succeeded"))
    of_it = {"payment_intent": "pi_told", "amount": 100, "currency": "usd"}
    for _ in range(2):
        tell(billed, account, "charge.dispute.created", {"id": "dp_1", "reason": "fraudulent", **of_it})
        tell(billed, account, "refund.created", {"id": "re_made", "status": "succeeded", "metadata": {}, **of_it})
        tell(billed, account, "charge.dispute.created", {"id": "dp_2", "payment_intent": "pi_unknown"})
        tell(billed, account, "charge.dispute.created", {"id": "dp_3", "payment_intent": {"id": "pi_told"}})
    assert told(world, *OUTCOMES) == ["payment.succeeded", "payment.disputed", "payment.refunded"]


def test_two_that_pay_at_once_charge_what_is_due_once(world: World, billed: Api, stripe: StripeDouble) -> None:
    issue(world, stripe, "pm_card_declined")
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    admin = api_of(world, billed, "admin")
    body = {"invoice": world.invoices()[0]["id"], "amount": "49", "provider": "stripe"}
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(admin.http.post, "/v1/payments", json=body) for _ in range(4)]
        answers = [each.result() for each in asked]
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "invoice.payment_pending"}
    assert [payment["status"] for payment in payments(world)] == ["failed", "pending"]


def test_a_refund_credit_note_is_paid_back_shown_and_tried_again(
    world: World, billed: Api, stripe: StripeDouble
) -> None:
    issue(world, stripe)
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    admin = api_of(world, billed, "admin")
    body = {"invoice": world.invoices()[0]["id"], "kind": "refund", "amount": "10"}
    note = admin.post("/v1/credit_notes", body)
    stripe.refund_status = "failed"
    run_all(world.doors, REFUNDS, Moment(now=instant("2100-01-01")))
    stripe.refund_status = "succeeded"
    [failed] = admin.get("/v1/refunds", credit_note=note["id"])["data"]
    assert (failed["status"], failed["amount"], failed["failure_code"]) == ("failed", "10.00", "failed")
    again = admin.post(f"/v1/refunds/{failed['id']}/retry", {})
    assert (again["status"], again["retry_of"]) == ("pending", failed["id"])
    assert admin.post(f"/v1/refunds/{failed['id']}/retry", {}, status=409)["code"] == "refund.already_retried"
    run_all(world.doors, REFUNDS, Moment(now=instant("2100-01-01")))
    assert admin.get(f"/v1/refunds/{again['id']}")["status"] == "succeeded"
    assert len(admin.get("/v1/refunds", payment=failed["payment"])["data"]) == 2


def test_a_refund_follows_what_is_told_of_it_and_each_change_is_told_once(
    world: World, billed: Api, stripe: StripeDouble
) -> None:
    issue(world, stripe)
    account = connect(world, stripe)
    run_all(world.doors, COLLECTIONS, Moment(now=instant(DAY)))
    admin = api_of(world, billed, "admin")
    admin.post("/v1/credit_notes", {"invoice": world.invoices()[0]["id"], "kind": "refund", "amount": "10"})
    stripe.refund_status = "pending"
    run_all(world.doors, REFUNDS, Moment(now=instant("2100-01-01")))
    stripe.refund_status = "succeeded"
    [made] = admin.get("/v1/refunds")["data"]
    event = {"id": made["reference"], "metadata": {"meterline_refund": made["id"]}, "amount": 1000, "currency": "usd"}
    steps = [
        ("pending", event["id"], "pending"),
        ("succeeded", "re_of_somebody", "pending"),
        ("succeeded", event["id"], "succeeded"),
        ("succeeded", event["id"], "succeeded"),
        ("failed", event["id"], "failed"),  # the customer's bank has sent it back
        ("failed", event["id"], "failed"),
        ("succeeded", event["id"], "failed"),
    ]
    for status, reference, after in steps:
        tell(billed, account, "refund.updated", event | {"id": reference, "status": status})
        assert admin.get(f"/v1/refunds/{made['id']}")["status"] == after
    assert told(world, "refund.succeeded", "refund.failed") == ["refund.succeeded", "refund.failed"]
