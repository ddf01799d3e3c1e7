"""Final invoices and credit notes as rows of FOCUS 1.2: a row a line, an added tax, or a part of a credit note.

The BilledCosts of an invoice's rows add up to its total, those of a credit note's to what it took back, negative. An
invoice that was taken back (`void`) has no rows.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from infra.postgres.exports import Exported, credit_notes, invoices_with_lines
from infra.postgres.pool import Database, Row
from ingestion_api.control.invoice_views import line_id_of
from ingestion_api.exports.focus_columns import FOCUS_COLUMNS
from ingestion_api.exports.invoices import shares_of
from ingestion_api.exports.tables import Values
from pricing.focus import (
    Category,
    Charge,
    FocusLine,
    Frequency,
    billing_period,
    charge_of,
    charge_period,
    hour_of,
    tax_cost,
)
from pricing.invoice_shares import LineShare
from schemas.billing import InvoiceKind
from schemas.instants import Period
from schemas.money import currency_exponent, from_minor

CORRECTION = "Correction"
#: What is sold is its seller's to know; FOCUS has a word for not knowing.
SERVICE_CATEGORY = "Other"
SERVICE_SUBCATEGORY = "Other (Other)"
#: Names of what is no plan's.
SERVICES = {InvoiceKind.ONE_OFF: "One-off charges", InvoiceKind.TOP_UP: "Prepaid credit"}
TAX_SERVICE = "Taxes"
CREDIT_SERVICE = "Credit notes"
#: Of SkuPriceDetails, by the price's own fields. FOCUS defines properties of machines only; all others begin with `x_`.
PRICE_DETAILS = {"x_BillingPeriod": "billing_period", "x_Model": "model"}


def focus_rows(database: Database, exported: Exported) -> Iterator[Values]:
    """The rows of all invoices, then those of all credit notes, in the order of FOCUS_COLUMNS."""
    for invoice, lines in invoices_with_lines(database, exported):
        if invoice["status"] != "void":
            yield from (_values(row) for row in _invoice(invoice, lines))
    for note in credit_notes(database, exported):
        yield from (_values(row) for row in _note(note))


def _values(row: Mapping[str, Any]) -> Values:
    return tuple(row.get(column.name) for column in FOCUS_COLUMNS)


def _invoice(invoice: Row, lines: list[Row]) -> Iterator[dict[str, Any]]:
    own = Period(start=invoice["period_start"], end=invoice["period_end"])
    periods = [charge_period(Period(start=line["period_start"], end=line["period_end"])) for line in lines]
    billed = billing_period(own, periods)
    document = _document(invoice, invoice["number"], billed)
    saved = Decimal(0)  # by negotiated prices
    for line, share, period in zip(lines, shares_of(invoice, lines), periods, strict=True):
        row = _line(invoice, line, share, period)
        saved += row["ListCost"] - row["ContractedCost"]
        yield document | row
    currency = invoice["currency"]
    left = from_minor(invoice["added_tax_minor"], currency)
    for tax in invoice["taxes"]:
        if not tax["inclusive"]:
            left -= Decimal(tax["amount"])
            yield document | _tax(invoice, billed, tax, saved)
    if left:  # of invoices that do not say which taxes they had
        rest = {"key": None, "name": "Tax", "percent": "0", "amount": left}
        yield document | _tax(invoice, billed, rest, saved)


def _document(document: Row, number: str, billed: Period) -> dict[str, Any]:
    """What all rows of an invoice, or of a credit note, have."""
    return {
        "BillingAccountId": document["payer"],
        "BillingAccountName": document["payer_name"],
        "BillingCurrency": document["currency"],
        "BillingPeriodStart": billed.start,
        "BillingPeriodEnd": billed.end,
        "InvoiceId": number,
        "InvoiceIssuerName": document["seller"],
        "ProviderName": document["seller"],
        "PublisherName": document["seller"],
        "ServiceCategory": SERVICE_CATEGORY,
        "ServiceSubcategory": SERVICE_SUBCATEGORY,
    }


def _costs(charge: Charge, period: Period, description: str) -> dict[str, Any]:
    return {
        "BilledCost": charge.billed,
        "EffectiveCost": charge.effective,
        "ListCost": charge.list_cost,
        "ContractedCost": charge.cost,
        "ListUnitPrice": charge.list_unit_price,
        "ContractedUnitPrice": charge.unit_price,
        "PricingQuantity": charge.pricing_quantity,
        "PricingUnit": charge.pricing_unit,
        "PricingCategory": charge.pricing_category,
        "ConsumedQuantity": charge.consumed_quantity,
        "ConsumedUnit": charge.consumed_unit,
        "ChargeCategory": charge.category,
        "ChargeClass": CORRECTION if charge.is_correction else None,
        "ChargeFrequency": charge.frequency,
        "ChargeDescription": description,
        "ChargePeriodStart": period.start,
        "ChargePeriodEnd": period.end,
    }


def _line(invoice: Row, line: Row, share: LineShare, period: Period) -> dict[str, Any]:
    charge = charge_of(
        FocusLine(
            invoice_kind=invoice["kind"],
            invoice_period=Period(start=invoice["period_start"], end=invoice["period_end"]),
            period=Period(start=line["period_start"], end=line["period_end"]),
            currency=invoice["currency"],
            price=line["price"],
            catalogue=line["catalogue"],
            meter=line["meter"],
            quantity=line["quantity"],
            unit_amount=line["unit_amount"],
            exact=line["exact"],
            billed=from_minor(line["amount_minor"], invoice["currency"]) - share.discount,
        )
    )
    row = _costs(charge, period, line["description"]) | {
        "ServiceName": line["plan_name"] or SERVICES.get(invoice["kind"], SERVICES[InvoiceKind.ONE_OFF]),
        "x_Discount": share.discount,
        "x_IncludedTax": share.included_tax,
        "x_InvoiceLineId": line_id_of(invoice, line["position"]),
    }
    if charge.is_priced:
        row |= {
            "SkuId": _sku(line, with_version=False),
            "SkuMeter": line["meter_name"] or line["key"],
            "SkuPriceDetails": _price_details(line),
            "SkuPriceId": _sku(line, with_version=True),
        }
    return row | _subscription(invoice, line)


def _sku(line: Row, *, with_version: bool) -> str:
    if line["plan"] is None:
        return line["key"]
    version = f"@{line['plan_version']}" if with_version else ""
    return f"{line['plan']}{version}/{line['key']}"


def _price_details(line: Row) -> str | None:
    """What every charge by the plan's own price shares, whatever a subscription has negotiated."""
    price = line["catalogue"] or line["price"]
    details = {name: price[key] for name, key in PRICE_DETAILS.items() if key in price}
    return json.dumps(details) if details else None


def _subscription(invoice: Row, line: Row) -> dict[str, Any]:
    """Whose subscription it is, when it is not the payer's own, and its metadata."""
    if line["subscription_id"] is None:
        return {}
    is_own = line["customer"] == invoice["payer"]
    return {
        "ResourceId": line["subscription_id"],
        "ResourceType": "Subscription",
        "SubAccountId": None if is_own else line["customer"],
        "SubAccountName": None if is_own else line["customer_name"],
        "Tags": json.dumps(line["tags"], ensure_ascii=False, sort_keys=True) if line["tags"] else None,
    }


def _tax(invoice: Row, billed: Period, tax: Mapping[str, Any], saved: Decimal) -> dict[str, Any]:
    currency, amount, percent = invoice["currency"], Decimal(tax["amount"]), Decimal(tax["percent"])
    subtotal, scale = from_minor(invoice["subtotal_minor"], currency), currency_exponent(currency)
    discount = from_minor(invoice["discount_minor"], currency)
    without_discounts = tax_cost(amount, subtotal, discount, percent, scale)
    is_single = invoice["kind"] in (InvoiceKind.ONE_OFF, InvoiceKind.TOP_UP)
    charge = Charge(
        category=Category.TAX,
        frequency=Frequency.ONE_TIME if is_single else Frequency.RECURRING,
        is_correction=False,
        billed=amount,
        effective=Decimal(0) if invoice["kind"] == InvoiceKind.TOP_UP else amount,
        cost=without_discounts,
        list_cost=tax_cost(without_discounts, subtotal + saved, saved, percent, scale) if saved else without_discounts,
    )
    return _costs(charge, billed, tax["name"]) | {"ServiceName": TAX_SERVICE, "x_TaxKey": tax["key"]}


def _note(note: Row) -> Iterator[dict[str, Any]]:
    currency, period = note["currency"], hour_of(note["created_at"])
    document = _document(note, note["number"], period)
    what = f"Credit note {note['number']} for {note['invoice_number']}"
    added = [(tax, -Decimal(tax["amount"])) for tax in note["taxes"] if not tax["inclusive"]]
    net = -from_minor(note["amount_minor"], currency) - sum(amount for _, amount in added)
    reason = f": {note['reason']}" if note["reason"] else ""
    yield document | _given_back(Category.CREDIT, net, period, what + reason) | {"ServiceName": CREDIT_SERVICE}
    for tax, amount in added:
        row = _given_back(Category.TAX, amount, period, f"{what}: {tax['name']}")
        yield document | row | {"ServiceName": TAX_SERVICE, "x_TaxKey": tax["key"]}


def _given_back(category: Category, amount: Decimal, period: Period, description: str) -> dict[str, Any]:
    charge = Charge(
        category=category,
        frequency=Frequency.ONE_TIME,
        is_correction=True,
        billed=amount,
        effective=amount,
        cost=amount,
        list_cost=amount,
    )
    return _costs(charge, period, description)
