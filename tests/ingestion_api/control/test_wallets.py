"""Wallets over HTTP: opened, filled, looked at, topped up, changed; and what they refuse."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from infra.postgres.invariants.check import find_broken
from tests.support.api import Api

JAN, FEB, MAR = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"


def open_wallet(api: Api, customer: str = "acme", **said: Any) -> Any:
    api.post("/v1/customers", {"external_id": customer, "currency": "USD"})
    return api.post("/v1/wallets", {"customer": customer, **said})


def grant(api: Api, wallet: Any, amount: str, **said: Any) -> Any:
    return api.post(f"/v1/wallets/{wallet['id']}/grants", {"amount": amount, **said})


def invoice(api: Api, amount: str, customer: str = "acme") -> Any:
    body = {"customer": customer, "lines": [{"description": "work", "amount": amount}], "draft": False}
    return api.post("/v1/invoices", body)


def balance(api: Api, wallet: Any) -> str:
    return api.get(f"/v1/wallets/{wallet['id']}")["balance"]


def transactions(api: Api, wallet: Any) -> Sequence[Any]:
    """Oldest first; each proven to add up to zero."""
    found = api.get(f"/v1/wallets/{wallet['id']}/transactions", limit=100)["data"]
    for each in found:
        assert sum(Decimal(entry["amount"]) for entry in each["entries"]) == 0
    return found[::-1]


def grants(api: Api, wallet: Any) -> dict[str, Any]:
    return {each["id"]: each for each in api.get(f"/v1/wallets/{wallet['id']}/grants")["data"]}


def test_a_new_wallet_is_empty_and_one_a_currency(api: Api) -> None:
    wallet = open_wallet(api, name="Prepaid")
    assert (wallet["object"], wallet["customer"], wallet["currency"]) == ("wallet", "acme", "USD")
    assert (wallet["balance"], wallet["allow_negative"]) == ("0.00", False)
    assert api.get(f"/v1/wallets/{wallet['id']}")["live_balance"] == "0.00"
    again = api.post("/v1/wallets", {"customer": "acme"}, status=409)
    assert again["code"] == "wallet.already_exists"
    euros = api.post("/v1/wallets", {"customer": "acme", "currency": "EUR"})
    listed = api.get("/v1/wallets", customer="acme")["data"]
    assert [each["id"] for each in listed] == [euros["id"], wallet["id"]]
    assert [each["id"] for each in api.get("/v1/wallets", currency="EUR")["data"]] == [euros["id"]]


def test_grants_pay_invoices_in_burn_order_and_the_ledger_says_how(api: Api) -> None:
    wallet = open_wallet(api)
    late = grant(api, wallet, "10", priority=2)
    soon = grant(api, wallet, "10", priority=1, kind="paid")
    assert balance(api, wallet) == "20.00"
    billed = invoice(api, "15")
    assert (billed["credits_applied"], billed["amount_due"], billed["status"]) == ("15.00", "0.00", "paid")
    found = grants(api, wallet)
    assert (found[soon["id"]]["balance"], found[soon["id"]]["status"]) == ("0.00", "depleted")
    assert (found[late["id"]]["balance"], found[late["id"]]["burned"]) == ("5.00", "5.00")
    paid = transactions(api, wallet)[-1]
    assert (paid["type"], paid["amount"], paid["invoice"]) == ("invoice", "-15.00", billed["id"])
    assert [(entry["account"], entry["grant"], entry["amount"]) for entry in paid["entries"]] == [
        ("balance", soon["id"], "-10.00"),
        ("invoice", soon["id"], "10.00"),
        ("balance", late["id"], "-5.00"),
        ("invoice", late["id"], "5.00"),
    ]
    assert [each["entries"][1]["account"] for each in transactions(api, wallet)[:2]] == ["promotion", "payment"]


def test_a_wallet_pays_what_it_holds_and_no_more(api: Api) -> None:
    wallet = open_wallet(api)
    grant(api, wallet, "10")
    billed = invoice(api, "15")
    assert (billed["credits_applied"], billed["amount_due"], billed["status"]) == ("10.00", "5.00", "open")
    assert invoice(api, "1")["amount_due"] == "1.00"
    assert balance(api, wallet) == "0.00"


def test_a_wallet_that_may_be_negative_pays_all_and_later_grants_make_up_for_it(api: Api) -> None:
    wallet = open_wallet(api, allow_negative=True)
    assert invoice(api, "15")["status"] == "paid"
    assert balance(api, wallet) == "-15.00"
    refused = api.http.patch(f"/v1/wallets/{wallet['id']}", json={"allow_negative": False})
    assert (refused.status_code, refused.json()["code"]) == (409, "wallet.is_negative")
    made = grant(api, wallet, "20")
    assert (made["balance"], made["burned"]) == ("5.00", "15.00")
    assert balance(api, wallet) == "5.00"
    assert [each["type"] for each in transactions(api, wallet)] == ["invoice", "grant", "overdraft"]


def test_a_grant_counts_from_its_start_to_before_its_end(api: Api) -> None:
    wallet = open_wallet(api)
    with api.at(JAN):
        made = grant(api, wallet, "10", effective_at=FEB, expires_at=MAR)
        assert (made["status"], balance(api, wallet)) == ("scheduled", "0.00")
        assert invoice(api, "1")["credits_applied"] == "0.00"
    with api.at(FEB):
        assert balance(api, wallet) == "10.00"
        assert invoice(api, "1")["credits_applied"] == "1.00"
    with api.at(MAR):
        assert balance(api, wallet) == "0.00"
        assert invoice(api, "1")["credits_applied"] == "0.00"
    found = grants(api, wallet)[made["id"]]
    assert (found["status"], found["burned"], found["expired"]) == ("expired", "1.00", "9.00")
    assert [(each["type"], each["occurred_at"]) for each in transactions(api, wallet)] == [
        ("grant", FEB),
        ("invoice", FEB),
        ("expiry", MAR),
    ]


def test_a_recurring_grant_refills_and_rolls_over_what_it_may(api: Api) -> None:
    wallet = open_wallet(api)
    with api.at(JAN):
        made = grant(api, wallet, "10", recurrence={"every": "month"}, rollover_max="4")
        assert (made["recurrence"], made["rollover_max"]) == ({"every": "month", "anchor": JAN}, "4.00")
        invoice(api, "1")
    with api.at(FEB):
        assert balance(api, wallet) == "14.00"
        invoice(api, "1")
    found = grants(api, wallet)[made["id"]]
    assert [found[name] for name in ("granted", "burned", "expired", "balance")] == ["20.00", "2.00", "5.00", "13.00"]


def test_a_voided_invoice_gives_back_to_the_grants_it_came_from(api: Api) -> None:
    wallet = open_wallet(api)
    with api.at(JAN):
        short = grant(api, wallet, "10", expires_at=FEB)
        long = grant(api, wallet, "10")
        billed = invoice(api, "15")
    with api.at(FEB):
        api.post(f"/v1/invoices/{billed['id']}/void", {}, status=200)
        assert balance(api, wallet) == "10.00"
    found = grants(api, wallet)
    assert (found[short["id"]]["expired"], found[short["id"]]["balance"]) == ("10.00", "0.00")
    assert (found[long["id"]]["burned"], found[long["id"]]["balance"]) == ("0.00", "10.00")


def test_what_an_overdraft_no_longer_needs_becomes_credit(api: Api) -> None:
    wallet = open_wallet(api, allow_negative=True)
    billed = invoice(api, "15")
    grant(api, wallet, "20")
    api.post(f"/v1/invoices/{billed['id']}/void", {}, status=200)
    assert balance(api, wallet) == "20.00"
    assert [each["kind"] for each in grants(api, wallet).values()] == ["credit", "promotional"]
    assert [each["amount"] for each in transactions(api, wallet)] == ["-15.00", "20.00", "0.00", "15.00"]


def test_a_voided_grant_gives_no_more(api: Api) -> None:
    wallet = open_wallet(api)
    made = grant(api, wallet, "10")
    invoice(api, "3")
    voided = api.post(f"/v1/wallets/{wallet['id']}/grants/{made['id']}/void", {}, status=200)
    assert (voided["status"], voided["balance"], voided["expired"]) == ("voided", "0.00", "7.00")
    assert voided["voided_at"] is not None
    again = api.post(f"/v1/wallets/{wallet['id']}/grants/{made['id']}/void", {}, status=409)
    assert again["code"] == "grant.is_over"
    assert balance(api, wallet) == "0.00"


def test_a_top_up_is_a_grant_once_its_invoice_is_paid(api: Api) -> None:
    wallet = open_wallet(api)
    grant(api, wallet, "5")
    made = api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100"})
    assert (made["status"], made["kind"], made["balance"]) == ("unpaid", "paid", "0.00")
    sold = api.get(f"/v1/invoices/{made['invoice']}")
    assert (sold["kind"], sold["credits_applied"], sold["amount_due"]) == ("top_up", "0.00", "100.00")
    assert balance(api, wallet) == "5.00"
    api.post("/v1/payments", {"invoice": made["invoice"], "amount": "40"})
    assert balance(api, wallet) == "5.00"
    api.post("/v1/payments", {"invoice": made["invoice"], "amount": "60"})
    assert balance(api, wallet) == "105.00"
    assert grants(api, wallet)[made["id"]]["status"] == "active"


def test_a_top_up_that_is_paid_already_counts_at_once(api: Api) -> None:
    wallet = open_wallet(api)
    made = api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100", "payment": {"reference": "wire 7"}})
    assert (made["status"], made["balance"]) == ("active", "100.00")
    assert api.get(f"/v1/invoices/{made['invoice']}")["status"] == "paid"


def test_a_top_up_whose_invoice_is_voided_never_counts(api: Api) -> None:
    wallet = open_wallet(api)
    made = api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100"})
    refused = api.post(f"/v1/wallets/{wallet['id']}/grants/{made['id']}/void", {}, status=409)
    assert refused["code"] == "grant.unpaid"
    api.post(f"/v1/invoices/{made['invoice']}/void", {}, status=200)
    assert grants(api, wallet)[made["id"]]["status"] == "voided"
    assert balance(api, wallet) == "0.00"


def test_credit_beyond_what_a_wallet_can_hold_is_refused(api: Api) -> None:
    open_wallet(api)
    lines = [{"description": "Goodwill", "amount": "-92233720368547758.07"}]
    api.post("/v1/invoices", {"customer": "acme", "lines": lines})
    refused = api.post("/v1/invoices", {"customer": "acme", "lines": lines}, status=409)
    assert refused["code"] == "wallet.too_much"


def pay_back(api: Api, invoice_id: str, amount: str, *, status: int = 201, kind: str = "refund") -> Any:
    return api.post("/v1/credit_notes", {"invoice": invoice_id, "kind": kind, "amount": amount}, status=status)


def test_what_is_paid_back_of_a_top_up_leaves_the_wallet_and_what_has_paid_invoices_is_not(api: Api) -> None:
    wallet = open_wallet(api)
    made = api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100", "payment": {"reference": "wire 7"}})
    refused = pay_back(api, made["invoice"], "10", status=422, kind="adjustment")
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("credit_note.top_up_paid", "/kind")
    paid = invoice(api, "30")
    note = pay_back(api, made["invoice"], "20")
    own = grants(api, wallet)[made["id"]]
    assert (own["balance"], own["burned"], own["granted"], balance(api, wallet)) == ("50.00", "30.00", "80.00", "50.00")
    [entry] = [each for each in transactions(api, wallet) if each["credit_note"] == note["id"]]
    assert (entry["type"], entry["amount"], entry["invoice"]) == ("void", "-20.00", made["invoice"])
    refused = pay_back(api, made["invoice"], "50.01", status=422)
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("credit_note.exceeds_grant", "/amount")
    api.post(f"/v1/wallets/{wallet['id']}/grants/{made['id']}/void", {}, status=200)
    api.post(f"/v1/invoices/{paid['id']}/void", {}, status=200)  # what it gives back of a void grant is gone
    pay_back(api, made["invoice"], "80")
    own = grants(api, wallet)[made["id"]]
    assert (own["balance"], own["burned"], own["expired"], own["granted"]) == ("0.00", "0.00", "0.00", "0.00")
    with api.database.transaction() as connection:
        assert find_broken(connection) == {}


def test_a_top_up_of_which_a_part_was_paid_back_brings_the_rest(api: Api) -> None:
    wallet = open_wallet(api)
    made = api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100"})
    api.post("/v1/payments", {"invoice": made["invoice"], "amount": "40"})
    pay_back(api, made["invoice"], "15")
    assert pay_back(api, made["invoice"], "70", status=422, kind="adjustment")["code"] == "credit_note.top_up_paid"
    pay_back(api, made["invoice"], "10", kind="adjustment")
    api.post(f"/v1/invoices/{made['invoice']}/pay", {}, status=200)
    assert (grants(api, wallet)[made["id"]]["status"], balance(api, wallet)) == ("active", "75.00")


def test_low_balance_is_told_once_a_crossing(api: Api) -> None:
    wallet = open_wallet(api, low_balance_threshold="10")

    def alerts() -> int:
        with api.database.transaction() as connection:
            row = connection.execute(
                "SELECT count(*) AS n FROM outbox WHERE type = 'wallet.balance_low' AND object_id = %s", (wallet["id"],)
            ).fetchone()
        assert row is not None
        return row["n"]

    assert alerts() == 0  # it has never been above
    grant(api, wallet, "20")
    invoice(api, "10")
    assert alerts() == 0
    invoice(api, "1")
    invoice(api, "1")
    assert alerts() == 1
    grant(api, wallet, "20")
    invoice(api, "20")
    assert alerts() == 2


def test_settings_of_a_wallet_change(api: Api) -> None:
    wallet = open_wallet(api)
    settings = {"threshold": "10", "target": "50", "cool_off_seconds": 60, "monthly_cap": "200"}
    changed = api.http.patch(
        f"/v1/wallets/{wallet['id']}", json={"name": "N", "low_balance_threshold": "5", "auto_top_up": settings}
    ).json()
    assert (changed["name"], changed["low_balance_threshold"]) == ("N", "5.00")
    assert changed["auto_top_up"] == {
        "threshold": "10.00",
        "amount": None,
        "target": "50.00",
        "cool_off_seconds": 60,
        "monthly_cap": "200.00",
    }
    emptied = api.http.patch(f"/v1/wallets/{wallet['id']}", json={"auto_top_up": None, "low_balance_threshold": None})
    assert (emptied.json()["auto_top_up"], emptied.json()["low_balance_threshold"]) == (None, None)
    assert api.get(f"/v1/wallets/{wallet['id']}")["name"] == "N"


REFUSED = {
    "no amount": ({"amount": "0"}, "wallet.invalid_amount", "/amount"),
    "a negative amount": ({"amount": "-1"}, "wallet.invalid_amount", "/amount"),
    "half a cent": ({"amount": "0.005"}, "wallet.invalid_amount", "/amount"),
    "too much": ({"amount": "1000000000001"}, "wallet.invalid_amount", "/amount"),
    "a credit": ({"amount": "1", "kind": "credit"}, "wallet.invalid_grant", "/kind"),
    "an end before the start": (
        {"amount": "1", "effective_at": "2199-01-02T00:00:00Z", "expires_at": "2199-01-01T00:00:00Z"},
        "wallet.invalid_grant",
        "/expires_at",
    ),
    "an end in the past": ({"amount": "1", "expires_at": JAN}, "wallet.invalid_grant", "/expires_at"),
    "a start long ago": (
        {"amount": "1", "effective_at": "2020-01-01T00:00:00Z"},
        "wallet.invalid_grant",
        "/effective_at",
    ),
    "a refill once": ({"amount": "1", "recurrence": {"every": "once"}}, "wallet.invalid_grant", "/recurrence/every"),
    "rollover without a refill": ({"amount": "1", "rollover_max": "1"}, "wallet.invalid_grant", "/recurrence"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_grant_is_refused_with_its_field(api: Api, name: str) -> None:
    wallet = open_wallet(api)
    body, code, where = REFUSED[name]
    refused = api.post(f"/v1/wallets/{wallet['id']}/grants", body, status=422)
    assert (refused["code"], refused["errors"][0]["pointer"]) == (code, where)


def test_automatic_top_ups_are_refused_when_they_contradict_themselves(api: Api) -> None:
    wallet = open_wallet(api)
    for settings in (
        {"threshold": "10"},
        {"threshold": "10", "amount": "5", "target": "20"},
        {"threshold": "10", "target": "5"},
        {"threshold": "10", "amount": "50", "monthly_cap": "40"},
    ):
        refused = api.http.patch(f"/v1/wallets/{wallet['id']}", json={"auto_top_up": settings})
        assert (refused.status_code, refused.json()["code"]) == (422, "wallet.invalid_auto_top_up")


def test_wallets_of_another_tenant_are_not_found(operator: Api, api: Api) -> None:
    wallet = open_wallet(api)
    stranger = operator.new_tenant()
    for path in ("", "/grants", "/transactions"):
        assert stranger.get(f"/v1/wallets/{wallet['id']}{path}", status=404)["code"] == "wallet.not_found"
    for path in ("/grants", "/top_up"):
        found = stranger.post(f"/v1/wallets/{wallet['id']}{path}", {"amount": "1"}, status=404)
        assert found["code"] == "wallet.not_found"


def test_a_top_up_happens_once_under_its_idempotency_key(api: Api) -> None:
    wallet = open_wallet(api)
    for _ in range(2):
        api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "100", "payment": {}}, idempotency_key="k")
    assert balance(api, wallet) == "100.00"
