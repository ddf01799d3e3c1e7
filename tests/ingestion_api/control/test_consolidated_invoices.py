"""Consolidated invoices over HTTP: configured, previewed, issued, found, paid, on paper."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import ADVANCE, USAGE, World

SUPPORT = ADVANCE | {"key": "support", "amount": "20"}


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    """The API as an admin of the world's tenant sees it."""
    return api_of(world, billed, "admin")


def patch(api: Api, path: str, body: Any) -> Any:
    response = api.http.patch(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def preview(api: Api, customer: str, as_of: str) -> Any:
    return api.post("/v1/invoices/preview", {"customer": customer, "as_of": as_of}, status=200)


def test_a_consolidated_invoice_is_what_was_previewed_and_can_be_found_paid_and_printed(world: World, api: Api) -> None:
    one = world.subscribe(ADVANCE, USAGE, external_id="one payer")
    two = world.subscribe(SUPPORT, USAGE, beside=one, discounts=[{"percent": "50"}])
    assert patch(api, "/v1/customers/one payer", {"invoicing": "consolidated"})["invoicing"] == "consolidated"
    world.bill(one, now="2026-01-01")
    world.use(one, ("2026-01-05", 1000))
    world.stored_until("2026-02-02")
    expected = preview(api, "one payer", "2026-02-01T00:00:00Z")
    world.bill(two, now="2026-02-02")
    issued, first = api.get("/v1/invoices", subscription=two.id, expand="explain")["data"]
    assert [each["id"] for each in api.get("/v1/invoices", subscription=one.id)["data"]] == [issued["id"], first["id"]]
    for name in ("subtotal", "discount", "total", "subscription", "subscriptions", "discounts", "period", "kind"):
        assert issued[name] == expected[name], name
    shown = [{**line, "id": ""} for line in issued["lines"]]
    assert shown == [{**line, "id": ""} for line in expected["lines"]]
    assert len({line["id"] for line in issued["lines"]}) == 4
    assert (issued["subscription"], issued["subscriptions"]) == (None, sorted([one.id, two.id]))
    assert (issued["total"], issued["discount"]) == ("74.00", "15.00")  # 49 + 10, and half of 20 + 10
    note = {"invoice": issued["id"], "kind": "adjustment", "lines": [{"line": issued["lines"][0]["id"], "amount": "1"}]}
    assert api.post("/v1/credit_notes", note, status=201)["kind"] == "adjustment"
    api.post(f"/v1/invoices/{first['id']}/pay", {}, status=200)
    assert api.get(f"/v1/invoices/{first['id']}")["status"] == "paid"
    assert api.http.get(f"/v1/invoices/{issued['id']}/pdf").content.startswith(b"%PDF")
    api.post(f"/v1/subscriptions/{two.id}/cancel", {"at": "period_end"}, status=200)


def test_a_consolidated_draft_keeps_its_lines_and_is_not_deleted(world: World, api: Api) -> None:
    one = world.subscribe(ADVANCE, external_id="one payer of drafts")
    world.subscribe(SUPPORT, beside=one)
    patch(api, "/v1/customers/one payer of drafts", {"invoicing": "consolidated"})
    patch(api, "/v1/settings", {"draft_hours": 24})
    world.bill(one, now="2026-01-01")
    patch(api, "/v1/settings", {"draft_hours": None})
    [draft] = api.get("/v1/invoices", subscription=one.id)["data"]
    assert (draft["status"], draft["subscription"], len(draft["lines"])) == ("draft", None, 2)
    path = f"/v1/invoices/{draft['id']}"
    assert patch(api, path, {"metadata": {"seen": "yes"}})["metadata"] == {"seen": "yes"}
    for body in ({"lines": [{"description": "Less", "amount": "1"}]}, {"discounts": []}, {"taxes": []}):
        refused = api.http.patch(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "invoice.not_one_off")
    assert api.http.delete(path).json()["code"] == "invoice.not_one_off"
    assert api.get(path)["total"] == draft["total"] == "69.00"


def test_a_preview_of_a_customer_with_an_invoice_a_subscription_is_refused(world: World, api: Api) -> None:
    subscription = world.subscribe(ADVANCE)
    body = {"customer": subscription.external_id}
    assert api.post("/v1/invoices/preview", body, status=409)["code"] == "invoice.not_consolidated"
    patch(api, "/v1/settings", {"invoicing": "consolidated"})
    assert api.post("/v1/invoices/preview", body, status=200)["subscription"] == subscription.id
    patch(api, "/v1/settings", {"invoicing": None})
    both = body | {"subscription": subscription.id}
    assert api.post("/v1/invoices/preview", both, status=422)["code"] == "request.invalid_field"


def test_parents_set_crosswise_at_once_wait_for_each_other_and_one_is_refused(world: World, api: Api) -> None:
    one, two = (world.subscribe(ADVANCE).external_id for _ in range(2))

    def set_parent(customer: str, parent: str) -> int:
        return api.http.patch(f"/v1/customers/{customer}", json={"parent": parent}).status_code

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            assert sorted(pool.map(set_parent, [one, two], [two, one])) == [200, 422]
            for customer in (one, two):
                patch(api, f"/v1/customers/{customer}", {"parent": None})
