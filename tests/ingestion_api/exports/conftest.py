"""A tenant with documents of every kind, and what reads its exports."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from infra.postgres.jsonb import jsonb
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import ADVANCE, METER, USAGE, World, make_world

WIDE = "from=2025-01-01T00:00:00Z&to=2199-01-01T00:00:00Z"
TIERS = {
    "key": "tiered",
    "type": "usage",
    "meter": METER,
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.5"}, {"up_to": None, "unit_amount": "0.25", "flat_amount": "1"}],
}
SUPPORT = ADVANCE | {"key": "support", "amount": "20"}
#: A fee and a unit price that are lower, tiers that are one price, and a fee as in the catalogue.
NEGOTIATED = {
    "base": {"amount": "40"},
    "tokens": {"unit_amount": "0.007"},
    "tiered": {"model": "per_unit", "unit_amount": "0.2"},
}
PASSED = {"key": "passed", "type": "usage", "meter": METER, "model": "dynamic", "multiplier": "1.2"}
HOSTILE = '=HYPERLINK("http://x","y")'


def patch(api: Api, path: str, body: Any) -> None:
    response = api.http.patch(path, json=body)
    assert response.status_code == 200, response.text


def table(api: Api, name: str, query: str = WIDE) -> list[dict[str, str]]:
    response = api.http.get(f"/v1/exports/{name}?{query}&format=csv")
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


def frame(api: Api, name: str, query: str = WIDE) -> pl.DataFrame:
    response = api.http.get(f"/v1/exports/{name}?{query}&format=parquet")
    assert response.status_code == 200, response.text
    return pl.read_parquet(io.BytesIO(response.content))


def sums(rows: list[dict[str, Any]], by: str, of: str) -> dict[str, Decimal]:
    found: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        found[row[by]] += Decimal(row[of])
    return dict(found)


@pytest.fixture(scope="session")
def admin(billed: Api) -> Iterator[Api]:
    """The API of a tenant with invoices of every kind: consolidated, with late usage, discounts, taxes and credit, of
    a parent, one-off with negative lines, void, negative, and credit notes."""
    world = make_world(billed.settings)
    api = api_of(world, billed, "admin")
    fill(world, api)
    yield api
    world.close()


def fill(world: World, api: Api) -> None:
    for key, percent, inclusive in (("vat", "19", False), ("city", "0.5", False), ("in", "7", True)):
        api.post("/v1/tax_rates", {"key": key, "name": key, "percent": percent, "inclusive": inclusive})
    one = world.subscribe(
        ADVANCE, USAGE, TIERS, external_id="acme", discounts=[{"percent": "33.3"}, {"amount": "1.01"}]
    )
    patch(api, "/v1/customers/acme", {"tax_rates": ["vat", "city"]})
    world.use(one, ("2026-01-05", 333), ("2026-01-31T23:59:59", 1))
    world.stored_until("2026-02-02")
    world.bill(one, now="2026-02-02")
    world.use(one, ("2026-01-07", 77))  # late: a correction on the next invoice
    world.stored_until("2026-03-02")
    world.bill(one, now="2026-03-02")
    world.cancel(one, "2026-03-11", prorate=True)  # gives back more than the usage costs
    world.stored_until("2026-03-12")
    world.bill(one, now="2026-03-12")
    consolidated = world.subscribe(ADVANCE, USAGE, external_id="together", discounts=[{"amount": "7.77"}])
    beside = world.subscribe(SUPPORT, TIERS, beside=consolidated, discounts=[{"percent": "50"}])
    patch(api, "/v1/customers/together", {"invoicing": "consolidated", "tax_rates": ["in", "vat"]})
    world.use(consolidated, ("2026-01-05", 1001))
    world.stored_until("2026-02-02")
    world.bill(consolidated, beside, now="2026-02-02")
    world.subscribe(ADVANCE, external_id="parent")
    child = world.subscribe(SUPPORT, USAGE, external_id="child", commitment={"amount": "30", "true_up": True})
    world.rows(
        "UPDATE customers c SET parent_id = p.id FROM customers p WHERE c.external_id = 'child'"
        " AND p.external_id = 'parent' AND p.tenant_id = %(id)s AND c.tenant_id = %(id)s RETURNING 1",
        id=world.tenant_id,
    )
    world.rows(
        "UPDATE subscriptions SET metadata = %(metadata)s WHERE id = %(id)s RETURNING 1",
        id=child.id,
        metadata=jsonb({"team": "search"}),
    )
    world.bill(child, now="2026-02-02")
    negotiated = world.subscribe(ADVANCE, USAGE, TIERS, SUPPORT, external_id="negotiated", price_overrides=NEGOTIATED)
    patch(api, "/v1/customers/negotiated", {"tax_rates": ["vat"]})
    world.use(negotiated, ("2026-01-05", 333))
    world.stored_until("2026-02-02")
    world.bill(negotiated, now="2026-02-02")
    world.cancel(negotiated, "2026-02-11", prorate=True)
    world.stored_until("2026-02-12")
    world.bill(negotiated, now="2026-02-12")
    passed = world.subscribe(PASSED | {"billing_period": "month"}, external_id="passed")
    world.use(passed, ("2026-01-05", "12.34"))
    world.bill(passed, now="2026-02-02")
    patch(api, "/v1/customers/passed", {"name": "Renamed"})
    wallet = api.post("/v1/wallets", {"customer": "acme", "currency": "USD"})
    api.post(f"/v1/wallets/{wallet['id']}/top_up", {"amount": "25"})
    lines = [
        {"description": HOSTILE, "amount": "100.01"},
        {"description": "back", "amount": "-33.34"},
        {"description": "Workshop", "price": {"model": "per_unit", "unit_amount": "0.333"}, "quantity": "7"},
    ]
    made = [
        api.post("/v1/invoices", {"customer": "acme", "lines": lines, "discounts": [{"percent": "10"}]}),
        api.post("/v1/invoices", {"customer": "acme", "lines": lines[:1], "discounts": [{"percent": "100"}]}),
        api.post("/v1/invoices", {"customer": "together", "lines": lines, "discounts": [{"amount": "0.05"}]}),
        api.post("/v1/invoices", {"customer": "acme", "lines": lines[:1]}),
    ]
    api.post(f"/v1/invoices/{made[3]['id']}/void", {}, status=200)
    for each in (made[0], made[2]):
        note = {"invoice": each["id"], "kind": "adjustment", "amount": "10", "reason": "late"}
        api.post("/v1/credit_notes", note)


def issued(api: Api) -> dict[str, dict[str, Any]]:
    page = api.get("/v1/invoices", limit=100)
    assert not page["has_more"]
    return {each["number"]: each for each in page["data"] if each["number"]}
