"""Exports of invoices, lines and FOCUS over HTTP, on the real stores: their sums are the invoices'."""

import io
from decimal import Decimal

import polars as pl
import pytest

from tests.ingestion_api.exports.conftest import HOSTILE, WIDE, frame, issued, sums, table
from tests.support.api import Api

AMOUNTS_OF_LINES = ("amount", "discount_share", "added_tax_share", "included_tax_share", "total_share")


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
    dollars = [row[name] for row in rows for name in AMOUNTS_OF_LINES if row["currency"] == "USD"]
    assert {len(amount.partition(".")[2]) for amount in dollars} == {2}


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
