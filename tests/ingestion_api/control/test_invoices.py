"""Invoices and previews over HTTP, on the real stores. What is previewed is what is issued."""

from typing import Any

import pytest

from infra.clickhouse.metering import measure
from ingestion_api.control import preview as preview_module
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import ADVANCE, METER, USAGE, World, instant

TIERS = {
    "key": "tokens",
    "type": "usage",
    "meter": METER,
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.5"}, {"up_to": None, "unit_amount": "0.25", "flat_amount": "1"}],
}
SEATS = {"key": "seats", "type": "fixed", "model": "per_unit", "unit_amount": "10"}


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    """The API as a reader of the world's tenant sees it."""
    return api_of(world, billed, "read")


def preview(api: Api, subscription_id: str, as_of: str) -> Any:
    return api.post("/v1/invoices/preview", {"subscription": subscription_id, "as_of": as_of}, status=200)


def test_a_preview_at_the_end_of_a_period_is_the_invoice_of_that_period(world: World, api: Api) -> None:
    subscription = world.subscribe(
        ADVANCE, SEATS, TIERS, quantities={"seats": "3"}, discounts=[{"percent": "10"}, {"amount": "1"}]
    )
    world.use(subscription, ("2026-01-05", 70), ("2026-01-31T23:59:59", 33), ("2026-02-03", 1000))
    world.stored_until("2026-02-02")
    first = preview(api, subscription.id, "2026-01-01T00:00:00Z")
    second = preview(api, subscription.id, "2026-02-01T00:00:00Z")
    assert world.invoices() == []
    world.bill(subscription, now="2026-02-02")
    issued = api.get("/v1/invoices", subscription=subscription.id, expand="explain")["data"]
    differing = {"id", "number", "status", "created_at", "issued_at", "finalized_at", "due_at", "as_of"}
    for previewed, invoice in zip([second, first], issued, strict=True):
        assert {k: v for k, v in previewed.items() if k not in differing} == {
            k: v for k, v in invoice.items() if k not in differing
        }
    assert second["as_of"] == issued[0]["as_of"] == "2026-02-02T00:00:00Z"
    # 70 + 33: 100 x 0.5, 3 x 0.25 and a flat of 1; 49 + 30 + 51.75 = 130.75, less 13.08, less 1
    assert (second["subtotal"], second["discount"], second["total"]) == ("130.75", "14.08", "116.67")


def test_a_preview_counts_usage_up_to_its_instant_and_shows_the_fees_to_come(world: World, api: Api) -> None:
    subscription = world.subscribe()
    world.use(subscription, ("2026-01-05", 70), ("2026-01-20", 33))
    lines = {line["key"]: line for line in preview(api, subscription.id, "2026-01-10T00:00:00Z")["lines"]}
    assert lines["tokens"]["quantity"] == "70"
    assert lines["tokens"]["amount"] == "0.70"
    assert lines["base"]["period"] == {"start": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}


def test_an_invoice_is_found_by_its_id_and_its_number_and_explains_itself(world: World, api: Api) -> None:
    subscription = world.subscribe(TIERS)
    world.use(subscription, ("2026-01-05", 104))
    world.stored_until("2026-02-02")
    world.bill(subscription, now="2026-02-02")
    by_number = api.get("/v1/invoices/INV-000001", expand="explain")
    assert api.get(f"/v1/invoices/{by_number['id']}") == by_number
    assert by_number["object"] == "invoice"
    assert by_number["customer"] == subscription.external_id
    assert by_number["amount_due"] == "52.00"
    [line] = by_number["lines"]
    assert line["description"] == "Tokens: 104 units, graduated (1 Jan 2026 – 31 Jan 2026)"
    assert [(row["quantity"], row["unit_amount"], row["amount"]) for row in line["explain"]] == [
        ("100", "0.5", "50"),
        ("4", "0.25", "1"),
        ("1", "1", "1"),
    ]


def test_lists_are_filtered_and_paged_newest_first(world: World, api: Api) -> None:
    one, two = world.subscribe(ADVANCE), world.subscribe(ADVANCE)
    world.bill(one, two, now="2026-03-15")
    page = api.get("/v1/invoices", limit=4)
    rest = api.get("/v1/invoices", limit=4, starting_after=page["next_cursor"])
    assert page["has_more"]
    assert not rest["has_more"]
    ids = [invoice["id"] for invoice in page["data"] + rest["data"]]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 6
    of_one = api.get("/v1/invoices", customer=one.external_id)["data"]
    assert {invoice["subscription"] for invoice in of_one} == {one.id}
    assert api.get(f"/v1/invoices?status=paid&subscription={two.id}")["data"] == []
    assert len(api.get(f"/v1/invoices?status=open&subscription={two.id}")["data"]) == 3


def test_the_running_cost_of_the_open_period_is_shown_line_by_line(world: World, api: Api) -> None:
    subscription = world.subscribe(start_at="2026-11-01")
    running = api.get(f"/v1/subscriptions/{subscription.id}/usage")
    assert running["object"] == "subscription_usage"
    assert [(line["key"], line["amount"]) for line in running["lines"]] == [("tokens", "0.00")]
    assert running["total"] == "0.00"


def test_another_tenants_invoice_and_subscription_are_not_found(world: World, billed: Api) -> None:
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    [invoice] = world.invoices()
    other = billed.new_tenant()
    assert other.get(f"/v1/invoices/{invoice['id']}", status=404)["code"] == "invoice.not_found"
    assert other.get("/v1/invoices/INV-000001", status=404)["code"] == "invoice.not_found"
    body = {"subscription": subscription.id}
    assert other.post("/v1/invoices/preview", body, status=404)["code"] == "subscription.not_found"
    assert other.get("/v1/invoices")["data"] == []


def test_a_subscription_that_has_ended_has_nothing_to_preview(world: World, api: Api) -> None:
    subscription = world.subscribe(ADVANCE, end_at=instant("2026-01-15"))
    world.bill(subscription, now="2026-02-01")
    body = {"subscription": subscription.id}
    assert api.post("/v1/invoices/preview", body, status=409)["code"] == "subscription.ended"


def test_a_preview_is_paid_from_the_credit_that_there_is_as_its_invoice_will_be(world: World, api: Api) -> None:
    canceled = world.subscribe(ADVANCE | {"amount": "31"})
    world.bill(canceled, now="2026-01-01")
    world.cancel(canceled, "2026-01-11", prorate=True)
    path = f"/v1/customers/{canceled.customer_id}"
    assert api.get(path)["credit_balance"] is None
    world.bill(canceled, now="2026-01-12")
    assert api.get(path)["credit_balance"] == {"USD": "21.00"}
    subscription = world.subscribe(ADVANCE | {"amount": "14"}, start_at="2026-02-01", beside=canceled)
    for start, due in (("2026-02-01", "0.00"), ("2026-03-01", "7.00")):
        previewed = preview(api, subscription.id, f"{start}T00:00:00Z")
        world.bill(subscription, now=start)
        issued = api.get("/v1/invoices", subscription=subscription.id)["data"][0]
        for name in ("subtotal", "tax", "total", "credits_applied", "amount_due"):
            assert previewed[name] == issued[name]
        assert issued["amount_due"] == due
    assert api.get(path)["credit_balance"] == {"USD": "0.00"}
    listed = {each["id"]: each["credit_balance"] for each in api.get("/v1/customers")["data"]}
    assert listed == {canceled.customer_id: {"USD": "0.00"}}


def test_no_transaction_is_open_while_usage_is_measured(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = world.subscribe(start_at="2026-11-01")
    world.use(subscription, ("2026-11-05", 3))
    open_transactions: list[int] = []

    def measure_watched(*arguments: Any) -> Any:
        [row] = world.rows(
            "SELECT count(*) AS open FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE %(state)s AND pid <> pg_backend_pid()",
            state="idle in transaction%",
        )
        open_transactions.append(row["open"])
        return measure(*arguments)

    monkeypatch.setattr(preview_module, "measure", measure_watched)
    admin = api_of(world, api, "admin")
    with api.at("2026-11-20T00:00:00Z"):
        admin.post("/v1/invoices/preview", {"subscription": subscription.id}, status=200, idempotency_key="k-1")
        body = {"at": "now", "preview": True}
        admin.post(f"/v1/subscriptions/{subscription.id}/cancel", body, status=200, idempotency_key="k-2")
        admin.get(f"/v1/subscriptions/{subscription.id}/usage")
    assert open_transactions == [0, 0, 0]


def test_a_preview_under_a_key_is_answered_as_the_first_time(world: World, api: Api) -> None:
    subscription = world.subscribe(start_at="2026-11-01")
    path, body = "/v1/invoices/preview", {"subscription": subscription.id, "as_of": "2026-11-20T00:00:00Z"}
    first = api.post(path, body, status=200, idempotency_key="k-1")
    world.use(subscription, ("2026-11-05", 300))
    assert api.post(path, body, status=200, idempotency_key="k-1") == first
    assert api.post(path, body, status=200)["total"] != first["total"]
    refused = api.post(path, {"subscription": "sub_x"}, status=404, idempotency_key="k-2")
    assert api.post(path, {"subscription": "sub_x"}, status=404, idempotency_key="k-2") == refused


def test_what_is_wrong_with_a_question_is_said(api: Api) -> None:
    assert api.post("/v1/invoices/preview", {}, status=422)["code"] == "request.missing_field"
    body = {"subscription": "sub_x", "when": "now"}
    assert api.post("/v1/invoices/preview", body, status=422)["code"] == "request.unknown_field"
    assert api.get("/v1/invoices", status=422, limit=0)["code"] == "request.invalid_field"
    assert api.get("/v1/invoices", status=404, customer="nobody")["code"] == "customer.not_found"


def test_the_running_usage_line_has_the_price_it_is_priced_by(world: World, api: Api) -> None:
    subscription = world.subscribe(USAGE, price_overrides={"tokens": {"model": "per_unit", "unit_amount": "2"}})
    world.use(subscription, ("2026-01-05", 3))
    [line] = preview(api, subscription.id, "2026-01-20T00:00:00Z")["lines"]
    assert (line["unit_amount"], line["amount"], line["price"]["model"]) == ("2", "6.00", "per_unit")


def test_a_customers_tax_rates_are_on_its_subscriptions_preview_and_invoice(world: World, billed: Api) -> None:
    admin = api_of(world, billed, "admin")
    admin.post("/v1/tax_rates", {"key": "vat", "name": "VAT", "percent": "19"})
    subscription = world.subscribe(ADVANCE, discounts=[{"amount": "9"}])
    changed = admin.http.patch(f"/v1/customers/{subscription.customer_id}", json={"tax_rates": ["vat"]})
    assert changed.json()["tax_rates"] == ["vat"]
    previewed = preview(admin, subscription.id, "2026-01-01T00:00:00Z")
    world.bill(subscription, now="2026-01-01")
    [issued] = admin.get("/v1/invoices")["data"]
    assert issued["taxes"] == previewed["taxes"]
    assert [(tax["key"], tax["base"], tax["amount"]) for tax in issued["taxes"]] == [("vat", "40.00", "7.60")]
    assert (issued["discounts"], issued["total"]) == ([{"amount": "9", "taken": "9.00"}], "47.60")
    assert issued["lines"][0]["id"] == previewed["lines"][0]["id"]
    document = admin.http.get(f"/v1/invoices/{issued['id']}/pdf")
    assert document.status_code == 200
    admin.http.patch("/v1/tax_rates/vat", json={"percent": "7"})
    assert admin.get("/v1/invoices")["data"] == [issued]
