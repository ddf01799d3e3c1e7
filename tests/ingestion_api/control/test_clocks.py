"""Test clocks over HTTP: what is refused, whose they are, and what waits for what."""

from datetime import datetime
from typing import Any

import pytest

from infra.postgres.pool import PgConnection
from infra.postgres.test_clocks import hold_clock
from ingestion_api import clock as api_clock
from ingestion_api.control import test_clocks
from ingestion_api.control.test_clocks import MAX_ADVANCE
from tests.support.api import Api

NEW_YEAR = "2031-01-01T00:00:00Z"
FEE = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}


def a_clock(api: Api, now: str = NEW_YEAR) -> dict[str, Any]:
    return api.post("/v1/test_clocks", {"now": now})


def refuse(api: Api, clock: dict[str, Any], to: str, status: int) -> str:
    """The code of an advance that is refused, which leaves the clock as it was."""
    code = api.post(f"/v1/test_clocks/{clock['id']}/advance", {"to": to}, status=status)["code"]
    assert api.get(f"/v1/test_clocks/{clock['id']}") == clock
    return code


def test_a_clock_shows_what_it_was_given_and_is_listed(api: Api) -> None:
    first, second = a_clock(api), a_clock(api, "2032-01-01T00:00:00Z")
    assert (first["now"], first["status"], first["advance_to"], first["name"]) == (NEW_YEAR, "ready", None, first["id"])
    assert api.get("/v1/test_clocks")["data"] == [second, first]


def test_a_clock_never_goes_back_nor_too_far(api: Api) -> None:
    clock = a_clock(api)
    assert refuse(api, clock, "2030-12-31T23:59:59.999999Z", 409) == "test_clock.backwards"
    assert refuse(api, clock, "2041-01-08T00:00:00.000001Z", 422) == "test_clock.too_far"
    assert MAX_ADVANCE.days == 3660
    api.post(f"/v1/test_clocks/{clock['id']}/advance", {"to": "2041-01-08T00:00:00Z"}, status=200)


def test_a_clock_that_advances_takes_no_other_advance(api: Api) -> None:
    clock = a_clock(api)
    path = f"/v1/test_clocks/{clock['id']}/advance"
    assert api.post(path, {"to": "2031-02-01T00:00:00Z"}, status=200)["status"] == "advancing"
    assert refuse(api, api.get(f"/v1/test_clocks/{clock['id']}"), "2031-03-01T00:00:00Z", 409) == "test_clock.advancing"


@pytest.mark.parametrize("body", [{}, {"to": None}, {"to": "soon"}, {"to": 5}, {"to": NEW_YEAR, "more": 1}])
def test_an_advance_to_nowhere_is_refused(api: Api, body: dict[str, Any]) -> None:
    clock = a_clock(api)
    api.post(f"/v1/test_clocks/{clock['id']}/advance", body, status=422)
    assert api.get(f"/v1/test_clocks/{clock['id']}") == clock


def test_another_tenants_clock_is_nowhere(operator: Api, api: Api) -> None:
    theirs = a_clock(operator.new_tenant())
    assert api.get("/v1/test_clocks")["data"] == []
    api.get(f"/v1/test_clocks/{theirs['id']}", status=404)
    path = f"/v1/test_clocks/{theirs['id']}/advance"
    assert api.post(path, {"to": "2032-01-01T00:00:00Z"}, status=404)["code"] == "test_clock.not_found"
    refused = api.post("/v1/customers", {"external_id": "acme", "test_clock": theirs["id"]}, status=422)
    assert refused["code"] == "test_clock.not_found"


def test_a_clock_has_a_limited_number_of_customers(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_clocks, "MAX_CUSTOMERS", 2)
    clock = a_clock(api)
    for name in ("a", "b"):
        api.post("/v1/customers", {"external_id": name, "test_clock": clock["id"]})
    body = {"external_id": "c", "test_clock": clock["id"]}
    assert api.post("/v1/customers", body, status=409)["code"] == "test_clock.too_many_customers"
    api.post("/v1/customers", {"external_id": "c"})


def test_whatever_is_done_for_a_clocks_customer_holds_the_clock(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, held = a_clock(api), list[str]()

    def hold(connection: PgConnection, clock_id: str) -> datetime:
        held.append(clock_id)
        return hold_clock(connection, clock_id)

    def do(path: str, body: dict[str, Any], *, status: int = 201) -> Any:
        held.clear()
        answered = api.post(path, body, status=status)
        assert held, path
        assert set(held) == {clock["id"]}
        return answered

    monkeypatch.setattr(api_clock, "hold_clock", hold)
    api.post("/v1/customers", {"external_id": "acme", "test_clock": clock["id"], "currency": "USD"})
    api.post("/v1/plans", {"key": "pro", "name": "Pro", "currency": "USD", "prices": [FEE]})
    subscription = do("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
    do(f"/v1/subscriptions/{subscription['id']}/pause", {}, status=200)
    do("/v1/wallets", {"customer": "acme"})
    body = {"customer": "acme", "lines": [{"description": "Setup", "amount": "100"}]}
    draft, other = do("/v1/invoices", {**body, "draft": True}), do("/v1/invoices", {**body, "draft": True})
    do(f"/v1/invoices/{draft['id']}/finalize", {}, status=200)
    do("/v1/payments", {"invoice": draft["id"], "amount": "10"})
    do("/v1/credit_notes", {"invoice": draft["id"], "amount": "5", "kind": "adjustment", "reason": "other"})
    held.clear()
    assert api.http.patch(f"/v1/invoices/{other['id']}", json={"metadata": {"a": "b"}}).status_code == 200
    assert api.http.delete(f"/v1/invoices/{other['id']}").status_code == 200
    assert held == [clock["id"]] * 2
