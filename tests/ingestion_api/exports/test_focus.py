"""Conformance of the FOCUS export with version 1.2 of the specification: each test names the rule that it checks."""

import json
import re
from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from tests.ingestion_api.exports.conftest import WIDE, frame, issued, table
from tests.support.api import Api

#: Columns whose feature level is "Mandatory", and whether they may be null.
MANDATORY = {
    "BilledCost": False, "BillingAccountId": False, "BillingAccountName": True, "BillingCurrency": False,
    "BillingPeriodEnd": False, "BillingPeriodStart": False, "ChargeCategory": False, "ChargeClass": True,
    "ChargeDescription": True, "ChargePeriodEnd": False, "ChargePeriodStart": False, "ContractedCost": False,
    "EffectiveCost": False, "InvoiceIssuerName": False, "ListCost": False, "PricingQuantity": True,
    "PricingUnit": True, "ProviderName": False, "PublisherName": False, "ServiceCategory": False, "ServiceName": False,
}  # fmt: skip
#: Those that must be there when a provider has what they are for, as Meterline does, or that are recommended.
OTHERS = {
    "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "InvoiceId", "ListUnitPrice",
    "PricingCategory", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
}  # fmt: skip
PRICED = ("Usage", "Purchase")

#: How a value of each of the specification's types is written: its numeric, date/time, currency code and unit formats.
DECIMAL = re.compile(r"-?\d+(\.\d+)?")
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
STRING = re.compile(r"\S(.*\S)?", re.DOTALL)
CURRENCY = re.compile(r"[A-Z]{3}")
#: Columns that are no string, by what they hold.
FORMATS = {
    **dict.fromkeys(("BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"), DATE_TIME),
    **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity"), DECIMAL),
    **dict.fromkeys(("ConsumedQuantity", "ContractedUnitPrice", "ListUnitPrice"), DECIMAL),
    **dict.fromkeys(("x_Discount", "x_IncludedTax"), DECIMAL),
    "BillingCurrency": CURRENCY,
}
#: Columns that hold one of a list; null is the empty text.
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"", "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {
        "AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools",
        "Multicloud", "Identity", "Integration", "Internet of Things", "Management and Governance", "Media",
        "Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other",
    },
    "ServiceSubcategory": {"Other (Other)"},  # the only one of the category that we know
}  # fmt: skip
#: Columns that name something stand beside those that identify it, and have nothing to name without it.
NAMED = {"BillingAccountName": "BillingAccountId", "SubAccountName": "SubAccountId", "ResourceName": "ResourceId",
         "ResourceType": "ResourceId", "PricingUnit": "PricingQuantity", "ConsumedUnit": "ConsumedQuantity",
         "SkuMeter": "SkuId", "SkuPriceId": "SkuId", "SkuPriceDetails": "SkuPriceId"}  # fmt: skip
#: Of these, those that are never null beside it.
ALWAYS_NAMED = {"SubAccountName", "ResourceType", "PricingUnit", "ConsumedUnit", "SkuMeter"}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(admin: Api) -> Rows:
    return list(frame(admin, "focus").iter_rows(named=True))


def regular(rows: Rows) -> Rows:
    """Charges of what is sold that correct nothing: what most rules are for."""
    return [row for row in rows if row["ChargeCategory"] in PRICED and row["ChargeClass"] is None]


def test_the_export_has_charges_of_every_category_and_class(rows: Rows) -> None:
    assert {row["ChargeCategory"] for row in rows} == {"Usage", "Purchase", "Tax", "Credit", "Adjustment"}
    assert {row["ChargeClass"] for row in rows} == {None, "Correction"}
    assert {row["ChargeFrequency"] for row in rows} == {"One-Time", "Recurring", "Usage-Based"}
    assert any(row["BilledCost"] < 0 for row in regular(rows))


def test_every_mandatory_column_is_there_and_null_only_where_it_may_be(rows: Rows) -> None:
    for name, may_be_null in MANDATORY.items():
        assert name in rows[0]
        assert may_be_null or all(row[name] not in (None, "") for row in rows), name


def test_columns_are_those_of_the_specification_and_then_our_own(rows: Rows) -> None:
    own = [name for name in rows[0] if name.startswith("x_")]
    assert list(rows[0]) == [*sorted(MANDATORY.keys() | OTHERS), *own]


def test_every_value_of_the_file_is_of_its_columns_type_format_and_list(admin: Api) -> None:
    for row in table(admin, "focus"):
        for name, text in row.items():
            if name in ALLOWED:
                assert text in ALLOWED[name], name
            elif text:
                assert FORMATS.get(name, STRING).fullmatch(text), (name, text)
        for name, of in NAMED.items():
            assert row[of] or not row[name], name
            assert row[name] or not row[of] or name not in ALWAYS_NAMED, name


def test_the_billed_costs_of_an_invoice_match_its_total(admin: Api, rows: Rows) -> None:
    billed: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        billed[row["InvoiceId"]] += row["BilledCost"]
    invoices = {number: each for number, each in issued(admin).items() if each["status"] != "void"}
    assert {number: billed[number] for number in invoices} == {
        n: Decimal(each["total"]) for n, each in invoices.items()
    }
    notes = {each["number"]: each for each in admin.get("/v1/credit_notes")["data"]}
    assert {number: billed[number] for number in notes} == {n: -Decimal(each["amount"]) for n, each in notes.items()}
    assert set(billed) == invoices.keys() | notes.keys()
    assert len(notes) == 2


def test_taxes_match_those_that_invoices_add(admin: Api, rows: Rows) -> None:
    for number, invoice in issued(admin).items():
        taxes = {row["x_TaxKey"]: row["BilledCost"] for row in rows
                 if row["InvoiceId"] == number and row["ChargeCategory"] == "Tax"}  # fmt: skip
        if invoice["status"] != "void":
            added = [tax for tax in invoice["taxes"] if not tax["inclusive"]]
            assert taxes == {tax["key"]: Decimal(tax["amount"]) for tax in added}


def test_a_cost_is_its_unit_price_times_the_pricing_quantity_unless_it_corrects(rows: Rows) -> None:
    for row in regular(rows):
        assert row["ListUnitPrice"] * row["PricingQuantity"] == row["ListCost"]
        assert row["ContractedUnitPrice"] * row["PricingQuantity"] == row["ContractedCost"]
        assert row["ListUnitPrice"] >= 0


def test_list_prices_are_the_catalogues_and_contracted_ones_those_that_were_negotiated(rows: Rows) -> None:
    own = [row for row in rows if row["BillingAccountId"] == "negotiated"]
    costs = defaultdict[str, list[tuple[str, ...]]](list)
    for row in own:
        prices = (row["ListUnitPrice"], row["ContractedUnitPrice"], row["ListCost"], row["ContractedCost"])
        costs[(row["SkuId"] or row["ServiceName"]).rpartition("/")[2]].append(
            tuple("" if each is None else format(each.normalize(), "f") for each in prices)
        )
    assert costs["base"][:2] == [("49", "40", "49", "40")] * 2
    assert costs["support"][:2] == [("20", "20", "20", "20")] * 2
    assert costs["tokens"][0] == ("0.01", "0.007", "3.33", "2.331")
    assert costs["tiered"][0] == ("109.25", "66.6", "109.25", "66.6")  # tiers have no unit price: the charge is one
    back = [row for row in own if row["ContractedCost"] < 0 and (row["SkuId"] or "").endswith("/base")]
    agreed = Decimal("-25.71")  # 18 of 28 days of the fee are given back, and the same share of the catalogue's
    assert [(row["ListCost"], row["ContractedCost"]) for row in back] == [(agreed * 49 / 40, agreed)]
    tax = costs["Taxes"][0]
    assert Decimal(tax[3]) < Decimal(tax[2])
    assert all(row["ListCost"] == row["ContractedCost"] for row in rows if row not in own)


def test_a_billed_cost_is_the_contracted_cost_less_discounts_but_for_the_rounding_of_a_line(rows: Rows) -> None:
    for row in regular(rows):
        assert abs(row["ContractedCost"] - row["x_Discount"] - row["BilledCost"]) < Decimal("0.01")
    assert any(row["x_Discount"] for row in regular(rows))


@pytest.mark.parametrize(
    "name",
    [
        "ListUnitPrice",
        "ContractedUnitPrice",
        "PricingQuantity",
        "PricingUnit",
        "PricingCategory",
        "SkuId",
        "SkuPriceId",
    ],
)
def test_what_prices_a_charge_is_null_for_taxes_and_never_for_usage_and_purchases(rows: Rows, name: str) -> None:
    assert all(row[name] not in (None, "") for row in regular(rows))
    assert all(row[name] is None for row in rows if row["ChargeCategory"] == "Tax")


def test_consumed_quantities_are_those_of_usage_alone(rows: Rows) -> None:
    for row in rows:
        is_usage = row["ChargeCategory"] == "Usage"
        assert (row["ConsumedQuantity"] is not None) == is_usage
        assert (row["ConsumedUnit"] is not None) == is_usage
    assert any(row["ConsumedQuantity"] for row in rows)


def test_a_purchase_is_never_usage_based(rows: Rows) -> None:
    assert all(row["ChargeFrequency"] != "Usage-Based" for row in rows if row["ChargeCategory"] == "Purchase")


def test_a_charge_that_is_no_purchase_ahead_has_its_billed_cost_as_effective_cost(rows: Rows) -> None:
    ahead = [row for row in rows if row["ServiceName"] == "Prepaid credit"]
    assert [row["EffectiveCost"] for row in ahead] == [0]
    assert ahead[0]["BilledCost"] > 0
    assert all(row["EffectiveCost"] == row["BilledCost"] for row in rows
               if row not in ahead and row["InvoiceId"] != ahead[0]["InvoiceId"])  # fmt: skip


def test_usage_that_came_late_is_a_correction_of_the_period_before(rows: Rows) -> None:
    late = [row for row in rows if row["ChargeClass"] == "Correction" and row["ChargeCategory"] == "Usage"]
    assert late
    assert all(row["ChargePeriodEnd"] <= row["BillingPeriodStart"] for row in late)


def test_periods_are_whole_seconds_and_never_empty(admin: Api, rows: Rows) -> None:
    for kind in ("Charge", "Billing"):
        for row in rows:
            start, end = row[f"{kind}PeriodStart"], row[f"{kind}PeriodEnd"]
            assert start < end
            assert not start.microsecond
            assert not end.microsecond
    first = admin.http.get(f"/v1/exports/focus?{WIDE}").text.splitlines()[1]
    assert "2026-02-01T00:00:00Z" in first


def test_a_sub_account_is_the_customer_that_somebody_else_pays_for(rows: Rows) -> None:
    children = {(row["BillingAccountId"], row["SubAccountId"], row["SubAccountName"]) for row in rows
                if row["SubAccountId"]}  # fmt: skip
    assert children == {("parent", "child", "child")}


def test_a_resource_has_a_type_and_tags_are_a_json_object_of_texts(rows: Rows) -> None:
    assert all((row["ResourceId"] is None) == (row["ResourceType"] is None) for row in rows)
    assert {"team": "search"} in [json.loads(row["Tags"]) for row in rows if row["Tags"]]


@pytest.mark.parametrize("name", ["Tags", "SkuPriceDetails"])
def test_keys_and_values_are_a_json_object_of_plain_values(rows: Rows, name: str) -> None:
    found = [json.loads(row[name]) for row in rows if row[name]]
    assert found
    for each in found:
        assert isinstance(each, dict)
        assert not any(isinstance(value, dict | list) for value in each.values())


def test_details_are_of_the_price_that_is_sold_and_the_same_for_all_its_charges(rows: Rows) -> None:
    details: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        if row["SkuPriceId"]:
            details[row["SkuPriceId"]].add(row["SkuPriceDetails"])
    assert all(len(each) == 1 for each in details.values())
    of = {row["SkuMeter"]: json.loads(row["SkuPriceDetails"]) for row in rows
          if row["BillingAccountId"] == "negotiated" and row["SkuPriceDetails"]}  # fmt: skip
    assert of["base"] == {"x_Model": "flat"}
    models = {json.loads(row["SkuPriceDetails"])["x_Model"] for row in rows
              if row["SkuId"] and row["SkuId"].endswith("/tiered")}  # fmt: skip
    assert models == {"graduated"}, "what was negotiated is per unit"
    [passed] = [row for row in rows if row["BillingAccountId"] == "passed" and row["ChargeCategory"] == "Usage"]
    assert json.loads(passed["SkuPriceDetails"]) == {"x_BillingPeriod": "month", "x_Model": "dynamic"}


def test_only_what_is_passed_through_is_priced_dynamically(rows: Rows) -> None:
    assert {row["SkuId"].rpartition("/")[2] for row in rows if row["PricingCategory"] == "Dynamic"} == {"passed"}


def test_a_customer_who_is_renamed_keeps_the_name_that_stands_on_the_invoice(rows: Rows) -> None:
    assert {row["BillingAccountName"] for row in rows if row["BillingAccountId"] == "passed"} == {"passed"}


def test_a_service_is_the_plan_that_was_billed_and_its_skus_are_prices_of_a_version(rows: Rows) -> None:
    billed = [row for row in regular(rows) if row["ResourceId"]]
    assert {row["SkuId"].rpartition("/")[2] for row in billed} == {"base", "support", "tokens", "tiered", "passed"}
    for row in billed:
        plan, _, key = row["SkuId"].rpartition("/")
        assert row["ServiceName"] == plan  # in this world a plan's name is its key
        assert row["SkuPriceId"] == f"{plan}@1/{key}"
