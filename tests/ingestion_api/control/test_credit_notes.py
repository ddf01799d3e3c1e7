"""Credit notes over HTTP: what they do to the invoice, to the customer's credit, and to what is left."""

from typing import Any

import pytest

from tests.support.api import Api


@pytest.fixture
def invoice(api: Api) -> Any:
    """120.00 EUR: lines of 60 and 40, and 20% of tax."""
    api.post("/v1/tax_rates", {"key": "vat", "name": "VAT", "percent": "20"})
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR", "tax_rates": ["vat"]})
    lines = [{"description": "Seats", "amount": "60"}, {"description": "Setup", "amount": "40"}]
    return api.post("/v1/invoices", {"customer": "acme", "lines": lines})


def note(api: Api, invoice: Any, kind: str, *, status: int = 201, **of: Any) -> Any:
    return api.post("/v1/credit_notes", {"invoice": invoice["id"], "kind": kind, **of}, status=status)


def now(api: Api, invoice: Any) -> Any:
    return api.get(f"/v1/invoices/{invoice['id']}")


def test_an_adjustment_lowers_what_is_due_of_an_open_invoice(api: Api, invoice: Any) -> None:
    line = invoice["lines"][1]["id"]
    made = note(api, invoice, "adjustment", lines=[{"line": line, "amount": "40"}], reason="never delivered")
    assert (made["number"], made["amount"], made["tax"]) == ("CN-000001", "48.00", "8.00")
    assert (made["amount_adjusted"], made["amount_credited"], made["amount_refunded"]) == ("48.00", "0.00", "0.00")
    assert made["lines"] == [{"line": line, "description": "Setup", "amount": "40.00", "total": "48.00"}]
    after = now(api, invoice)
    assert (after["status"], after["amount_due"], after["amount_credited"]) == ("open", "72.00", "48.00")
    assert after["total"] == invoice["total"] == "120.00"
    assert api.get(f"/v1/credit_notes/{made['number']}") == made
    assert api.get("/v1/credit_notes", invoice=invoice["number"])["data"] == [made]


def test_an_adjustment_of_all_that_remains_pays_the_invoice_and_the_rest_is_credit(api: Api, invoice: Any) -> None:
    api.post("/v1/payments", {"invoice": invoice["id"], "amount": "100"})
    made = note(api, invoice, "adjustment", amount="50")
    assert (made["amount_adjusted"], made["amount_credited"]) == ("20.00", "30.00")
    after = now(api, invoice)
    assert (after["status"], after["amount_due"], after["amount_remaining"]) == ("paid", "100.00", "0.00")
    assert api.get("/v1/customers/acme")["credit_balance"] == {"EUR": "30.00"}


def test_a_refund_says_what_money_goes_back_and_is_never_more_than_was_paid(api: Api, invoice: Any) -> None:
    assert note(api, invoice, "refund", amount="1", status=422)["code"] == "credit_note.exceeds_paid"
    api.post(f"/v1/invoices/{invoice['id']}/pay", {}, status=200)
    made = note(api, invoice, "refund", amount="70")
    assert (made["amount_refunded"], made["amount_credited"]) == ("70.00", "0.00")
    assert (now(api, invoice)["amount_refunded"], now(api, invoice)["status"]) == ("70.00", "paid")
    assert note(api, invoice, "refund", amount="50.01", status=422)["code"] == "credit_note.exceeds_invoice"
    assert note(api, invoice, "refund", amount="50")["tax"] == "8.33"
    assert api.get("/v1/customers/acme")["credit_balance"] is None


def test_numbers_have_no_gaps_although_some_notes_are_refused(api: Api, invoice: Any) -> None:
    first = note(api, invoice, "adjustment", amount="1")
    note(api, invoice, "adjustment", amount="1000", status=422)
    note(api, invoice, "refund", amount="1", status=422)
    assert [first["number"], note(api, invoice, "adjustment", amount="1")["number"]] == ["CN-000001", "CN-000002"]


def test_a_line_is_taken_back_once_and_only_a_line_that_is_there(api: Api, invoice: Any) -> None:
    line = invoice["lines"][0]["id"]
    note(api, invoice, "adjustment", lines=[{"line": line, "amount": "59.99"}])
    refused = note(api, invoice, "adjustment", lines=[{"line": line, "amount": "0.02"}], status=422)
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("credit_note.exceeds_line", "/lines/0/amount")
    assert note(api, invoice, "adjustment", lines=[{"line": "ivl_x", "amount": "1"}], status=422)["code"] == (
        "credit_note.unknown_line"
    )
    twice = [{"line": line, "amount": "0.01"}] * 2
    assert note(api, invoice, "adjustment", lines=twice, status=422)["code"] == "credit_note.duplicate_line"
    assert note(api, invoice, "adjustment", status=422)["code"] == "credit_note.invalid_amount"


def test_drafts_and_void_invoices_have_no_credit_notes_and_credited_ones_are_not_voided(api: Api, invoice: Any) -> None:
    note(api, invoice, "adjustment", amount="1")
    assert api.post(f"/v1/invoices/{invoice['id']}/void", {}, status=409)["code"] == "invoice.has_credit_notes"
    lines = [{"description": "x", "amount": "10"}]
    draft = api.post("/v1/invoices", {"customer": "acme", "lines": lines, "draft": True})
    assert note(api, draft, "adjustment", amount="1", status=409)["code"] == "invoice.draft"
    final = api.post("/v1/invoices", {"customer": "acme", "lines": lines})
    api.post(f"/v1/invoices/{final['id']}/void", {}, status=200)
    assert note(api, final, "adjustment", amount="1", status=409)["code"] == "invoice.void"


@pytest.mark.parametrize("other", ["-10", "-25"])
def test_nothing_is_taken_back_of_lines_that_others_cancel_out(api: Api, other: str) -> None:
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR"})
    lines = [{"description": "Work", "amount": "10"}, {"description": "Goodwill", "amount": other}]
    made = api.post("/v1/invoices", {"customer": "acme", "lines": lines})
    refused = note(api, made, "adjustment", status=422, lines=[{"line": made["lines"][0]["id"], "amount": "1"}])
    assert (refused["code"], refused["errors"][0]["pointer"]) == ("credit_note.exceeds_invoice", "/lines")
