"""Exports of invoices, lines and FOCUS over HTTP, on the real stores: their sums are the invoices'."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

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


@pytest.fixture(scope="module")
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


def test_the_export_of_invoices_says_what_the_invoices_say(admin: Api) -> None:
    rows, invoices = table(admin, "invoices"), issued(admin)
    assert [row["number"] for row in rows] == [
        each["number"] for each in sorted(invoices.values(), key=lambda each: (each["finalized_at"], each["id"]))
    ]
    assert any(Decimal(each["total"]) < 0 for each in invoices.values())
    amounts = ("subtotal", "discount", "tax", "total", "credits_applied", "amount_due", "amount_paid")
    more = ("amount_remaining", "amount_credited", "amount_refunded", "status", "kind", "currency", "finalized_at")
    for row in rows:
        invoice = invoices[row["number"]]
        assert {name: row[name] for name in (*amounts, *more)} == {name: invoice[name] for name in (*amounts, *more)}
        assert row["payer"] == invoice["customer"]
        assert (row["period_start"], row["period_end"]) == (invoice["period"]["start"], invoice["period"]["end"])
        assert int(row["lines"]) == len(invoice["lines"])
        assert row["voided_at"] == (invoice["voided_at"] or "")


def test_the_lines_add_up_to_their_invoices_and_have_their_ids(admin: Api) -> None:
    rows, invoices = table(admin, "invoice_lines"), issued(admin)
    for number, invoice in invoices.items():
        own = [row for row in rows if row["invoice_number"] == number]
        assert [(row["line_id"], row["amount"]) for row in own] == [
            (line["id"], line["amount"]) for line in invoice["lines"]
        ]
    assert sums(rows, "invoice_number", "amount") == {n: Decimal(each["subtotal"]) for n, each in invoices.items()}
    assert sums(rows, "invoice_number", "total_share") == {n: Decimal(each["total"]) for n, each in invoices.items()}
    shared = sums(rows, "invoice_number", "discount_share")
    assert shared == {n: Decimal(each["discount"]) for n, each in invoices.items()}
    assert sum(shared.values()) > 0


def test_a_discount_of_one_subscription_falls_on_its_lines_alone(admin: Api) -> None:
    rows = [row for row in table(admin, "invoice_lines") if row["payer"] == "together" and row["subscription_id"]]
    [number] = {row["invoice_number"] for row in rows if row["key"] == "tiered" and row["amount"] != "0.00"}
    own = [row for row in rows if row["invoice_number"] == number]
    by_key = {row["key"]: Decimal(row["discount_share"]) for row in own}
    assert by_key["base"] + by_key["tokens"] == Decimal("7.77")
    assert by_key["support"] * 2 == Decimal(next(row["amount"] for row in own if row["key"] == "support"))


@pytest.mark.parametrize("name", ["invoices", "invoice_lines", "focus"])
def test_parquet_has_the_rows_of_the_csv_exactly(admin: Api, name: str) -> None:
    rows, read = table(admin, name), frame(admin, name)
    assert len(rows) == read.height > 0
    assert list(rows[0]) == read.columns
    assert not any(dtype.is_float() for dtype in read.dtypes)
    for row, other in zip(rows, read.iter_rows(named=True), strict=True):
        for column, text in row.items():
            value = other[column]
            if isinstance(value, Decimal):
                assert Decimal(text) == value, column
            elif isinstance(value, str):
                assert text in (value, f"'{value}"), column
            elif value is None:
                assert text == "", column


def test_what_a_spreadsheet_would_run_is_quoted_in_csv_and_whole_in_parquet(admin: Api) -> None:
    assert f"'{HOSTILE}" in {row["description"] for row in table(admin, "invoice_lines")}
    assert HOSTILE not in {row["description"] for row in table(admin, "invoice_lines")}
    assert HOSTILE in set(frame(admin, "invoice_lines")["description"])
    assert any(row["amount"].startswith("-") for row in table(admin, "invoice_lines"))  # a number stays one


def test_polars_reads_the_csv_as_it_was_written(admin: Api) -> None:
    text = admin.http.get(f"/v1/exports/invoice_lines?{WIDE}").content
    read = pl.read_csv(io.BytesIO(text), infer_schema=False)
    assert read.height == len(table(admin, "invoice_lines"))


def test_only_what_became_final_in_the_range_and_for_the_customer_is_exported(admin: Api) -> None:
    numbers = [row["number"] for row in table(admin, "invoices")]
    early = {row["number"] for row in table(admin, "invoices", "from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z")}
    late = {row["number"] for row in table(admin, "invoices", "from=2026-03-01T00:00:00Z&to=2199-01-01T00:00:00Z")}
    assert early
    assert late
    assert not early & late
    assert early | late == set(numbers)
    ours = table(admin, "invoices", WIDE + "&customer=together")
    assert {row["payer"] for row in ours} == {"together"}
    assert 0 < len(ours) < len(numbers)


@pytest.mark.parametrize("name", ["invoices", "invoice_lines", "focus", "usage"])
def test_another_tenant_sees_nothing_of_it(billed: Api, admin: Api, name: str) -> None:
    days = "from=2026-01-01T00:00:00Z&to=2026-04-01T00:00:00Z"
    other = billed.new_tenant()
    assert table(admin, name, days)
    assert table(other, name, days) == []
    assert frame(other, name, days).height == 0
    answer = other.http.get(f"/v1/exports/{name}?{days}&customer=acme")
    assert (answer.status_code, answer.json()["code"]) == (404, "customer.not_found")
