"""One-off invoices, their drafts and their ends, and the payments of them, over HTTP."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.api import Api


@pytest.fixture
def customer(api: Api) -> str:
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR"})
    return "acme"


def make(api: Api, *lines: dict[str, Any], **terms: Any) -> Any:
    body = {"customer": "acme", "lines": list(lines) or [{"description": "Setup", "amount": "100"}], **terms}
    return api.post("/v1/invoices", body)


def patch(api: Api, path: str, body: Any, *, status: int = 200) -> Any:
    response = api.http.patch(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.usefixtures("customer")
def test_a_one_off_adds_up_its_lines_discounts_and_taxes(api: Api) -> None:
    api.post("/v1/tax_rates", {"key": "vat", "name": "VAT", "percent": "19"})
    invoice = make(
        api,
        {"description": "Setup", "amount": "100"},
        {"description": "Hours", "price": {"model": "per_unit", "unit_amount": "12.5"}, "quantity": "3"},
        discounts=[{"percent": "10"}],
        taxes=["vat", {"name": "Fee", "percent": "1"}],
    )
    assert (invoice["status"], invoice["number"], invoice["kind"]) == ("open", "INV-000001", "one_off")
    assert (invoice["subtotal"], invoice["discount"], invoice["tax"]) == ("137.50", "13.75", "24.75")
    assert invoice["total"] == invoice["amount_due"] == invoice["amount_remaining"] == "148.50"
    assert [(tax["key"], tax["base"], tax["amount"]) for tax in invoice["taxes"]] == [
        ("vat", "123.75", "23.51"),
        ("tax-2", "123.75", "1.24"),
    ]
    assert invoice["discounts"] == [{"percent": "10", "taken": "13.75"}]
    hours = invoice["lines"][1]
    assert (hours["quantity"], hours["unit_amount"], hours["amount"]) == ("3", "12.5", "37.50")
    assert hours["id"].startswith("ivl_")
    assert api.get(f"/v1/invoices/{invoice['id']}") == invoice


def test_a_customers_rates_apply_and_what_was_issued_keeps_them(api: Api) -> None:
    api.post("/v1/tax_rates", {"key": "mwst", "name": "MwSt", "percent": "19", "inclusive": True})
    made = api.post("/v1/customers", {"external_id": "acme", "currency": "EUR", "tax_rates": ["mwst"]})
    assert made["tax_rates"] == ["mwst"]
    before = make(api, {"description": "Setup", "amount": "119"})
    assert (before["subtotal"], before["tax"], before["total"]) == ("119.00", "19.00", "119.00")
    patch(api, "/v1/tax_rates/mwst", {"percent": "7", "name": "reduced"})
    assert api.get(f"/v1/invoices/{before['id']}") == before
    after = make(api, {"description": "Setup", "amount": "107"})
    assert (after["taxes"][0]["name"], after["tax"]) == ("reduced", "7.00")
    assert make(api, taxes=[])["tax"] == "0.00"


def test_an_archived_rate_is_kept_by_those_that_have_it_and_given_to_nobody(api: Api) -> None:
    api.post("/v1/tax_rates", {"key": "old", "percent": "5"})
    api.post("/v1/customers", {"external_id": "acme", "currency": "EUR", "tax_rates": ["old"]})
    assert patch(api, "/v1/tax_rates/old", {"archived": True})["archived_at"] is not None
    assert make(api)["tax"] == "5.00"
    body = {"external_id": "other", "tax_rates": ["old"]}
    assert api.post("/v1/customers", body, status=422)["errors"][0]["pointer"] == "/tax_rates/0"


@pytest.mark.usefixtures("customer")
def test_drafts_stand_as_long_as_the_settings_say_and_change_until_they_are_final(api: Api) -> None:
    patch(api, "/v1/settings", {"draft_hours": 2, "net_days": 14, "invoice_prefix": "RE"})
    with api.at("2026-05-01T10:00:00Z"):
        draft = make(api)
    assert (draft["status"], draft["number"], draft["draft_until"]) == ("draft", None, "2026-05-01T12:00:00Z")
    changed = patch(api, f"/v1/invoices/{draft['id']}", {"lines": [{"description": "Less", "amount": "40"}]})
    assert (changed["total"], changed["lines"][0]["description"]) == ("40.00", "Less")
    with api.at("2026-05-01T11:00:00Z"):
        final = api.post(f"/v1/invoices/{draft['id']}/finalize", {}, status=200)
    assert (final["status"], final["number"], final["due_at"]) == ("open", "RE-000001", "2026-05-15T11:00:00Z")
    refused = patch(api, f"/v1/invoices/{draft['id']}", {"metadata": {"a": "b"}}, status=409)
    assert refused["code"] == "invoice.finalized"
    assert api.http.delete(f"/v1/invoices/{draft['id']}").json()["code"] == "invoice.finalized"
    assert api.post(f"/v1/invoices/{draft['id']}/finalize", {}, status=409)["code"] == "invoice.finalized"


@pytest.mark.usefixtures("customer")
def test_a_line_may_be_described_in_500_characters(api: Api) -> None:
    invoice = make(api, {"description": "x" * 500, "amount": "1"})
    assert len(invoice["lines"][0]["description"]) == 500
    body = {"customer": "acme", "lines": [{"description": "x" * 501, "amount": "1"}]}
    assert api.post("/v1/invoices", body, status=422)["errors"][0]["pointer"] == "/lines/0/description"


@pytest.mark.usefixtures("customer")
def test_a_deleted_draft_leaves_no_gap_in_the_numbers(api: Api) -> None:
    first, gone, last = (make(api, draft=True) for _ in range(3))
    deleted = api.http.delete(f"/v1/invoices/{gone['id']}")
    assert deleted.json() == {"object": "invoice", "id": gone["id"], "deleted": True}
    assert api.get(f"/v1/invoices/{gone['id']}", status=404)["code"] == "invoice.not_found"
    numbers = [api.post(f"/v1/invoices/{one['id']}/finalize", {}, status=200)["number"] for one in (last, first)]
    assert numbers == ["INV-000001", "INV-000002"]


@pytest.mark.usefixtures("customer")
def test_parts_are_paid_until_nothing_remains_and_never_more(api: Api) -> None:
    invoice = make(api)
    part = {"invoice": invoice["number"], "amount": "60", "provider": "manual", "reference": "bank 1"}
    payment = api.post("/v1/payments", part)
    assert (payment["amount"], payment["status"], payment["invoice"]) == ("60.00", "succeeded", invoice["id"])
    assert api.post("/v1/payments", {**part, "amount": "40.01"}, status=422)["code"] == "payment.exceeds_due"
    assert api.post("/v1/payments", {**part, "amount": "10"}, status=409)["code"] == "payment.already_exists"
    assert api.post("/v1/payments", {**part, "amount": "0"}, status=422)["errors"][0]["pointer"] == "/amount"
    assert api.post("/v1/payments", {**part, "amount": "0.001"}, status=422)["code"] == "request.invalid_field"
    half = api.get(f"/v1/invoices/{invoice['id']}")
    assert (half["status"], half["amount_paid"], half["amount_remaining"]) == ("open", "60.00", "40.00")
    api.post("/v1/payments", {**part, "amount": "40", "reference": "bank 2"})
    whole = api.get(f"/v1/invoices/{invoice['id']}")
    assert (whole["status"], whole["amount_remaining"]) == ("paid", "0.00")
    assert whole["paid_at"] is not None
    assert api.post("/v1/payments", {**part, "reference": "bank 3"}, status=409)["code"] == "invoice.not_open"
    assert [each["reference"] for each in api.get("/v1/payments", invoice=invoice["id"])["data"]] == [
        "bank 2",
        "bank 1",
    ]
    listed = "/v1/payments?invoice={}&status={}"
    counts = [len(api.get(listed.format(invoice["id"], status))["data"]) for status in ("succeeded", "pending")]
    assert counts == [2, 0]
    assert api.get(f"/v1/payments/{payment['id']}") == payment


@pytest.mark.usefixtures("customer")
def test_a_payment_sent_again_under_its_idempotency_key_counts_once(api: Api) -> None:
    invoice = make(api)
    body = {"invoice": invoice["id"], "amount": "30"}
    first = api.post("/v1/payments", body, Idempotency_Key="p-1")
    assert api.post("/v1/payments", body, Idempotency_Key="p-1") == first
    assert api.get(f"/v1/invoices/{invoice['id']}")["amount_paid"] == "30.00"


@pytest.mark.usefixtures("customer")
def test_paying_an_invoice_pays_what_remains(api: Api) -> None:
    invoice = make(api)
    api.post("/v1/payments", {"invoice": invoice["id"], "amount": "30"})
    paid = api.post(f"/v1/invoices/{invoice['id']}/pay", {"reference": "wire"}, status=200)
    assert (paid["status"], paid["amount_paid"]) == ("paid", "100.00")
    assert [each["amount"] for each in api.get("/v1/payments")["data"]] == ["70.00", "30.00"]
    assert api.post(f"/v1/invoices/{invoice['id']}/pay", {}, status=409)["code"] == "invoice.not_open"


@pytest.mark.usefixtures("customer")
def test_an_invoice_given_up_can_still_be_paid_but_not_marked_again(api: Api) -> None:
    invoice = make(api)
    path = f"/v1/invoices/{invoice['id']}"
    assert api.post(f"{path}/mark_uncollectible", {}, status=200)["status"] == "uncollectible"
    assert api.post(f"{path}/mark_uncollectible", {}, status=409)["code"] == "invoice.not_open"
    assert api.post(f"{path}/pay", {}, status=200)["status"] == "paid"


@pytest.mark.usefixtures("customer")
def test_a_void_invoice_keeps_its_number_and_gives_back_the_credit_that_paid_it(api: Api) -> None:
    make(api, {"description": "Goodwill", "amount": "-30"})
    invoice = make(api)
    assert (invoice["credits_applied"], invoice["amount_due"]) == ("30.00", "70.00")
    voided = api.post(f"/v1/invoices/{invoice['id']}/void", {}, status=200)
    assert (voided["status"], voided["number"], voided["amount_remaining"]) == ("void", "INV-000002", "0.00")
    assert api.get("/v1/customers/acme")["credit_balance"] == {"EUR": "30.00"}
    assert api.post(f"/v1/invoices/{invoice['id']}/void", {}, status=409)["code"] == "invoice.void"
    again = make(api, {"description": "Small", "amount": "20"})
    assert (again["status"], again["number"]) == ("paid", "INV-000003")
    assert api.post(f"/v1/invoices/{again['id']}/void", {}, status=200)["status"] == "void"
    assert api.get("/v1/customers/acme")["credit_balance"] == {"EUR": "30.00"}


@pytest.mark.usefixtures("customer")
def test_what_has_been_paid_is_not_voided(api: Api) -> None:
    invoice = make(api)
    api.post("/v1/payments", {"invoice": invoice["id"], "amount": "1"})
    assert api.post(f"/v1/invoices/{invoice['id']}/void", {}, status=409)["code"] == "invoice.has_payments"
    draft = make(api, draft=True)
    assert api.post(f"/v1/invoices/{draft['id']}/void", {}, status=409)["code"] == "invoice.draft"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "request.invalid_field"),
        ([{"description": "x"}], "invoice.invalid_line"),
        ([{"description": "x", "amount": "1", "price": {"model": "flat", "amount": "1"}}], "invoice.invalid_line"),
        ([{"description": "x", "price": {"model": "flat"}}], "pricing.invalid_field"),
        ([{"description": "x", "amount": "99999999999999999999"}], "pricing.amount_too_large"),
    ],
    ids=["none", "neither", "both", "half-a-price", "too-large"],
)
@pytest.mark.usefixtures("customer")
def test_lines_that_make_no_sense_are_refused(api: Api, lines: list[Any], code: str) -> None:
    assert api.post("/v1/invoices", {"customer": "acme", "lines": lines}, status=422)["code"] == code


@pytest.mark.usefixtures("customer")
def test_another_currency_than_the_customers_and_another_tenants_customer_are_refused(api: Api, operator: Api) -> None:
    body = {"customer": "acme", "currency": "USD", "lines": [{"description": "x", "amount": "1"}]}
    assert api.post("/v1/invoices", body, status=409)["code"] == "invoice.currency_mismatch"
    assert operator.new_tenant().post("/v1/invoices", body, status=404)["code"] == "customer.not_found"


def test_settings_have_defaults_and_null_goes_back_to_them(api: Api) -> None:
    seller = {"name": "Beispiel GmbH", "tax_id": "DE123456789", "address": {"city": "Bonn", "country": "DE"}}
    changed = patch(api, "/v1/settings", {"seller": seller, "locale": "de", "net_days": 30})
    assert (changed["seller"], changed["locale"], changed["net_days"]) == (seller, "de", 30)
    assert patch(api, "/v1/settings", {"net_days": None})["net_days"] == 0
    assert api.get("/v1/settings")["seller"] == seller
    for wrong in ({"draft_hours": -1}, {"locale": "xx-nowhere"}, {"seller": {"address": {"country": "XX"}}}, {"a": 1}):
        patch(api, "/v1/settings", wrong, status=422)


@pytest.mark.usefixtures("customer")
def test_payments_at_once_never_pay_more_than_is_due(api: Api) -> None:
    invoice = make(api)
    body = {"invoice": invoice["id"], "amount": "30"}
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(api.http.post, "/v1/payments", json=body) for _ in range(6)]
    assert sorted(answer.result().status_code for answer in answers) == [201, 201, 201, 422, 422, 422]
    assert api.get(f"/v1/invoices/{invoice['id']}")["amount_remaining"] == "10.00"


@pytest.mark.usefixtures("customer")
def test_drafts_finalized_at_once_get_numbers_without_gaps(api: Api) -> None:
    ids = [make(api, draft=True)["id"] for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(api.http.post, f"/v1/invoices/{id_}/finalize") for id_ in ids + ids]
    answers = [call.result().json() for call in calls]
    numbers = sorted(answer["number"] for answer in answers if "number" in answer)
    assert numbers == [f"INV-{number:06d}" for number in range(1, 7)]
    assert {answer["code"] for answer in answers if "number" not in answer} == {"invoice.finalized"}
    assert api.http.post(f"/v1/invoices/{ids[0]}/pay").json()["status"] == "paid"


@pytest.mark.usefixtures("customer")
@pytest.mark.parametrize(
    ("tax", "where"),
    [("nowhere", "/taxes/0"), ({"name": "x", "percent": "101"}, "/taxes/0/percent"), (5, "/taxes/0")],
    ids=["unknown", "too-much", "neither"],
)
def test_a_tax_that_makes_no_sense_is_named_by_its_place(api: Api, tax: Any, where: str) -> None:
    body = {"customer": "acme", "lines": [{"description": "x", "amount": "1"}], "taxes": [tax]}
    assert api.post("/v1/invoices", body, status=422)["errors"][0]["pointer"] == where


@pytest.mark.usefixtures("customer")
def test_a_one_off_redeems_coupons_and_a_draft_gives_them_back(api: Api) -> None:
    api.post("/v1/coupons", {"key": "fifth", "percent": "20", "duration": "once", "max_redemptions": 1})
    api.post("/v1/coupons", {"key": "ten", "amount": "10", "currency": "EUR", "duration": "forever"})
    draft = make(api, discounts=[{"coupon": "fifth"}, {"coupon": "ten"}], draft=True)
    assert (draft["subtotal"], draft["discount"], draft["total"]) == ("100.00", "30.00", "70.00")
    assert [(each["coupon"], each["taken"]) for each in draft["discounts"]] == [("fifth", "20.00"), ("ten", "10.00")]
    body = {"customer": "acme", "lines": [{"description": "Setup", "amount": "1"}], "discounts": [{"coupon": "fifth"}]}
    assert api.post("/v1/invoices", body, status=409)["code"] == "coupon.used_up"
    path = f"/v1/invoices/{draft['id']}"
    assert patch(api, path, {"discounts": [{"coupon": "fifth"}]})["total"] == "80.00"
    assert api.get("/v1/coupons/ten")["redemptions"] == 0
    assert patch(api, path, {"discounts": [{"percent": "1"}]})["total"] == "99.00"
    assert patch(api, path, {"discounts": [{"coupon": "fifth"}]})["total"] == "80.00"
    assert api.http.delete(path).status_code == 200
    assert api.get("/v1/coupons/fifth")["redemptions"] == 0
    assert api.post("/v1/invoices", body)["total"] == "0.80"
    problem = api.post("/v1/invoices", {**body, "discounts": [{"coupon": "none"}]}, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("coupon.not_found", "/discounts/0/coupon")


@pytest.mark.usefixtures("customer")
def test_a_coupon_of_one_redemption_is_redeemed_by_one_of_many_invoices_at_once(api: Api) -> None:
    api.post("/v1/coupons", {"key": "once", "percent": "50", "duration": "once", "max_redemptions": 1})
    body = {"customer": "acme", "lines": [{"description": "Setup", "amount": "1"}], "discounts": [{"coupon": "once"}]}
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(api.http.post, "/v1/invoices", json=body) for _ in range(4)]
    assert sorted(each.result().status_code for each in answers) == [201, 409, 409, 409]


@pytest.mark.usefixtures("customer")
def test_the_price_of_a_line_may_be_that_of_one(api: Api) -> None:
    [line] = make(api, {"description": "Hours", "price": "12.5", "quantity": "3"})["lines"]
    assert (line["quantity"], line["unit_amount"], line["amount"]) == ("3", "12.5", "37.50")
    lines = [{"description": "Hours", "price": "dear", "quantity": "3"}]
    problem = api.post("/v1/invoices", {"customer": "acme", "lines": lines}, status=422)
    assert problem["errors"][0]["pointer"] == "/lines/0/price/unit_amount"
