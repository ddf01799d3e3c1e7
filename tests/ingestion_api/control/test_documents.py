"""The PDF of an invoice over HTTP."""

from typing import Any

import pytest

from tests.support.api import Api

LINES = [{"description": "Setup", "amount": "100"}]


@pytest.fixture
def invoice(api: Api) -> Any:
    seller = {"name": "Beispiel GmbH", "tax_id": "DE123456789", "address": {"country": "DE"}}
    assert api.http.patch("/v1/settings", json={"seller": seller}).status_code == 200
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR", "locale": "de", "address": {"country": "FR"}})
    return api.post("/v1/invoices", {"customer": "acme", "lines": LINES})


def test_a_final_invoices_pdf_stays_the_same_whatever_becomes_of_it(api: Api, invoice: Any) -> None:
    first = api.http.get(f"/v1/invoices/{invoice['id']}/pdf")
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/pdf"
    assert 'filename="INV-000001.pdf"' in first.headers["content-disposition"]
    api.http.patch("/v1/settings", json={"seller": {"name": "Another"}, "locale": "fr"})
    api.http.patch("/v1/customers/acme", json={"name": "Renamed", "locale": "en"})
    api.post("/v1/credit_notes", {"invoice": invoice["id"], "kind": "adjustment", "amount": "10"})
    api.post(f"/v1/invoices/{invoice['id']}/pay", {}, status=200)
    assert api.http.get("/v1/invoices/INV-000001/pdf").content == first.content
    later = api.post("/v1/invoices", {"customer": "acme", "lines": LINES})
    assert api.http.get(f"/v1/invoices/{later['id']}/pdf").content != first.content


def test_a_draft_and_another_tenants_invoice_have_no_pdf(api: Api, operator: Api, invoice: Any) -> None:
    draft = api.post("/v1/invoices", {"customer": "acme", "lines": LINES, "draft": True})
    assert api.get(f"/v1/invoices/{draft['id']}/pdf", status=409)["code"] == "invoice.draft"
    path = f"/v1/invoices/{invoice['id']}/pdf"
    assert operator.new_tenant().get(path, status=404)["code"] == "invoice.not_found"
