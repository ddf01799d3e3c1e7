"""Checks out of memory against checks over PostgreSQL: an Idempotency-Key sends a check the ordinary way."""

import time
import uuid
from datetime import UTC, datetime
from typing import Any, LiteralString

import pytest

from tests.ingestion_api.entitlements.played_process import (
    WAIT_SECONDS,
    Process,
    asking,
    names,
    once_as_of,
    utc_now,
)


def _same(process: Process, *asked: str | None) -> Any:
    fast, slow = process.ask(*asked), process.ask_postgres(*asked)  # pyright: ignore[reportArgumentType]
    for moving in ("as_of", "lag_seconds"):
        del fast[moving], slow[moving]
    assert fast == slow
    return fast


def test_memory_and_postgresql_give_the_same_answers(process: Process, customer: str) -> None:
    assert process.knows(customer, "tokens")
    for quantity in (None, "6", "6.000000000001", "0"):
        _same(process, customer, "tokens", quantity)
    assert _same(process, customer, "tokens", "6")["remaining"] == "6"
    assert _same(process, customer, "sso", None)["value"] is True
    assert process.ask(customer, "beta")["reason"] == "no_entitlement"
    assert process.ask(customer, "tokens")["lag_seconds"] is not None


def test_memory_and_postgresql_agree_on_what_was_given_and_what_is_carried_over(process: Process) -> None:
    name, path = next(names), "/v1/customers/{}/entitlements"
    process.post("/v1/customers", {"external_id": name})
    terms = {"limit": "10", "reset": "year", "rollover_max": "4", "starts_at": "2020-01-01T00:00:00Z"}
    given = process.post(path.format(name), {"feature": "tokens", **terms})
    this_year = datetime(utc_now().year, 1, 1, tzinfo=UTC)
    last_year = this_year.replace(year=this_year.year - 1)
    process.count(name, "tokens", "5", start=this_year, seed=True)
    process.count(name, "tokens", "3", start=last_year, seed=True)
    process.wait_until_known(name, "tokens")
    for quantity in (None, "9", "9.000000000001", "0"):
        found = _same(process, name, "tokens", quantity)
    assert (found["limit"], found["rolled_over"], found["remaining"]) == ("14", "4", "9")
    process.count(name, "tokens", "4.5", start=last_year)  # a late event
    deadline = time.monotonic() + WAIT_SECONDS
    while process.ask(name, "tokens")["rolled_over"] != "2.5":
        assert time.monotonic() < deadline, "the late event was never seen"
        time.sleep(0.02)
    assert process.knows(name, "tokens")
    assert _same(process, name, "tokens", "7.5")["remaining"] == "7.5"
    process.post(path.format(name), {"feature": "sso"})
    assert process.ask(name, "sso")["value"] is True
    assert process.http.request("DELETE", f"{path.format(name)}/{given['id']}").status_code == 200
    assert process.ask(name, "tokens")["reason"] == "no_entitlement"


def test_an_answer_that_is_kept_ends_with_what_it_was_made_of(process: Process, customer: str) -> None:
    """Whatever is asked twice is answered the second time from what was kept of the first."""

    def twice(quantity: str | None = None) -> Any:
        first = _same(process, customer, "tokens", quantity)
        assert _same(process, customer, "tokens", quantity) == first
        return first

    def change(statement: LiteralString) -> None:
        with process.connection.transaction():
            process.connection.execute(statement, {"customer": customer})

    def once(reason: str, used: str | None) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while ((found := process.ask(customer, "tokens"))["reason"], found["used"]) != (reason, used):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    assert [twice(quantity)["allowed"] for quantity in (None, "6", "6.1")] == [True, True, False]
    before = utc_now()
    process.count(customer, "tokens", "2.5")
    once_as_of(process, customer, before)
    assert twice()["used"] == "6.5"
    change("UPDATE meters SET revision = 2")  # of which nothing is counted
    once("within_limit", "0")
    change("UPDATE meters SET revision = 1")
    once("within_limit", "6.5")
    change(
        "UPDATE entitlements e SET ends_at = clock_timestamp() + interval '1 second' FROM customers c"
        " WHERE c.id = e.customer_id AND c.external_id = %(customer)s"
    )
    once("subscription_inactive", None)


def test_plain_reservations_have_the_ordinary_routes_answers(process: Process, customer: str) -> None:
    """An Idempotency-Key sends a request the ordinary way."""
    path, moving = "/v1/entitlements/reserve", ("id", "created_at", "expires_at", "as_of", "lag_seconds")

    def reserve(quantity: str, **headers: str) -> tuple[int, str, Any]:
        body = {**asking(customer, "tokens", quantity), "ttl_seconds": 600}
        answer = process.http.post(path, json=body, headers=headers)
        found = answer.json()
        if answer.status_code == 201:
            process.post(f"/v1/reservations/{found['id']}/release", {}, 200)
        found.pop("request_id", None)
        kept = {name: value for name, value in found.items() if name not in moving}
        return answer.status_code, answer.headers["content-type"], kept

    statuses: list[int] = []
    for quantity in ("1", "6", "6.000000000001", "0.5", "0", "-1", "x"):
        plain = reserve(quantity)
        assert plain == reserve(quantity, **{"idempotency-key": uuid.uuid4().hex}), quantity
        statuses.append(plain[0])
    assert statuses == [201, 201, 409, 201, 422, 422, 422]


def test_a_bulk_of_known_and_unknown_is_one_answer(process: Process, customer: str) -> None:
    checks = [
        asking(customer, "tokens", "1"),
        asking(customer, "sso", None),
        asking(customer, "beta", None),
    ]
    answer = process.post("/v1/entitlements/check", {"checks": checks}, 200)
    assert [each["reason"] for each in answer["data"]] == ["within_limit", "unlimited", "no_entitlement"]
    known = process.post("/v1/entitlements/check", {"checks": checks[:2]}, 200)
    assert [each["feature"] for each in known["data"]] == ["tokens", "sso"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "request.invalid_json"),
        (b'{"customer":"nobody","feature":"tokens"}', 404, "customer.not_found"),
        (b'{"customer":"nobody","feature":"tokens","colour":1}', 422, "request.unknown_field"),
        (b'{"customer":"nobody","feature":"tokens","quantity":"-1"}', 422, "request.invalid_field"),
        (b'{"checks":[]}', 422, "request.invalid_field"),
    ],
)
def test_what_is_not_plainly_good_has_the_ordinary_routes_answer(
    process: Process, body: bytes, status: int, code: str
) -> None:
    answer = process.http.post("/v1/entitlements/check", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
