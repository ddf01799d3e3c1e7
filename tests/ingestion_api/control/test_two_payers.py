"""Two who pay one invoice at the same moment, by connections of their own: money comes in once, and all adds up."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest

from infra.postgres.invariants.check import find_broken
from tests.support.api import Api

ROUNDS = 5
Call = tuple[str, dict[str, Any]]


def _pay(number: str) -> Call:
    return f"/v1/invoices/{number}/pay", {}


def _all(number: str) -> Call:
    return "/v1/payments", {"invoice": number, "amount": "100.10"}


def _most(number: str) -> Call:
    return "/v1/payments", {"invoice": number, "amount": "60.05"}


def at_once(api: Api, calls: list[Call]) -> list[tuple[int, Any]]:
    """Send these when all are ready; the status and the answer of each."""
    ready = Barrier(len(calls))

    def send(call: Call) -> tuple[int, Any]:
        ready.wait(30)
        answer = api.http.post(call[0], json=call[1])
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(len(calls)) as payers:
        return list(payers.map(send, calls))


@pytest.mark.parametrize(
    ("one", "other", "paid"),
    [(_pay, _pay, "100.10"), (_pay, _all, "100.10"), (_all, _all, "100.10"), (_most, _most, "60.05")],
)
def test_of_two_payments_of_one_invoice_at_the_same_moment_one_counts(
    api: Api, one: Callable[[str], Call], other: Callable[[str], Call], paid: str
) -> None:
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR"})
    for _ in range(ROUNDS):
        line = {"description": "Work", "amount": "100.10"}
        number = api.post("/v1/invoices", {"customer": "acme", "lines": [line]})["number"]
        answers = at_once(api, [one(number), other(number)])
        statuses = sorted(status for status, _ in answers)
        assert statuses[0] in (200, 201)
        assert statuses[1] in (409, 422), answers
        refused = next(body for status, body in answers if status in (409, 422))
        assert refused["code"] in ("invoice.not_open", "payment.exceeds_due")
        check(api, number, paid)
    with api.database.transaction() as connection:
        assert find_broken(connection) == {}


def test_whoever_pays_the_rest_beside_a_part_of_it_pays_what_is_left_and_no_more(api: Api) -> None:
    """Either the part comes first, and the rest is what remains; or all is paid, and the part is refused."""
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR"})
    for _ in range(ROUNDS):
        line = {"description": "Work", "amount": "100.10"}
        number = api.post("/v1/invoices", {"customer": "acme", "lines": [line]})["number"]
        answers = at_once(api, [_pay(number), _most(number)])
        assert answers[0][0] == 200
        assert answers[1][0] in (201, 409)
        check(api, number, "100.10")


def check(api: Api, number: str, paid: str) -> None:
    """The invoice says what its payments come to."""
    invoice = api.get(f"/v1/invoices/{number}")
    payments = api.get("/v1/payments", invoice=number)["data"]
    assert Decimal(invoice["amount_paid"]) == Decimal(paid)
    assert sum(Decimal(payment["amount"]) for payment in payments) == Decimal(paid)
    assert invoice["status"] == ("paid" if paid == invoice["total"] else "open")
