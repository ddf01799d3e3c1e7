"""Factur-X (ZUGFeRD) 1.0, profile BASIC WL: the invoice as data, for the XML inside its PDF.

EN 16931 speaks of net amounts and of one tax basis: taxes on the same basis are shown as one, with the sum of their
percentages, and inclusive taxes are taken out of the sum of lines. Its rules ask for the seller's country and tax id
and for the buyer's country; what nobody has told is left out, and then the data is not valid by those rules.
"""

import re
from datetime import date
from decimal import Decimal
from xml.etree import ElementTree as ET

from infra.documents.invoice import InvoiceDocument
from schemas.invoicing import Address, Buyer, Seller
from schemas.money import exactly, format_amount, format_decimal

FILE_NAME = "factur-x.xml"
CONFORMANCE_LEVEL = "BASIC WL"
_GUIDELINE = "urn:factur-x.eu:1p0:basicwl"
_COMMERCIAL_INVOICE = "380"
_RSM = "urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100"
_RAM = "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100"
_UDT = "urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100"
_ZERO = Decimal(0)
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@exactly
def write_facturx(document: InvoiceDocument) -> bytes:
    """The XML, UTF-8."""
    root = ET.Element("rsm:CrossIndustryInvoice", {"xmlns:rsm": _RSM, "xmlns:ram": _RAM, "xmlns:udt": _UDT})
    context = ET.SubElement(root, "rsm:ExchangedDocumentContext")
    _text(_child(context, "GuidelineSpecifiedDocumentContextParameter"), "ID", _GUIDELINE)
    head = ET.SubElement(root, "rsm:ExchangedDocument")
    _text(head, "ID", document.number)
    _text(head, "TypeCode", _COMMERCIAL_INVOICE)
    _date(_child(head, "IssueDateTime"), document.issued_on)
    transaction = ET.SubElement(root, "rsm:SupplyChainTradeTransaction")
    agreement = _child(transaction, "ApplicableHeaderTradeAgreement")
    _seller(_child(agreement, "SellerTradeParty"), document.parties.seller)
    _buyer(_child(agreement, "BuyerTradeParty"), document.parties.buyer)
    _child(transaction, "ApplicableHeaderTradeDelivery")
    _settlement(_child(transaction, "ApplicableHeaderTradeSettlement"), document)
    ET.indent(root)
    return ET.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def _settlement(parent: ET.Element, document: InvoiceDocument) -> None:
    _text(parent, "PaymentReference", document.number)
    _text(parent, "InvoiceCurrencyCode", document.currency)
    tax = sum((tax.amount for tax in document.taxes), _ZERO)
    basis = document.total - tax
    _tax(parent, document, tax=tax, basis=basis)
    if document.period is not None:
        period = _child(parent, "BillingSpecifiedPeriod")
        _date(_child(period, "StartDateTime"), document.period[0])
        _date(_child(period, "EndDateTime"), document.period[1])
    # A discount of prices that contain tax is no net amount: there the lines stand for what is left after it.
    allowance = _ZERO if any(tax.inclusive for tax in document.taxes) else document.discount
    if allowance:
        _allowance(parent, document, allowance)
    terms = _child(parent, "SpecifiedTradePaymentTerms")
    _date(_child(terms, "DueDateDateTime"), document.due_on)
    sums = _child(parent, "SpecifiedTradeSettlementHeaderMonetarySummation")
    for name, amount in (
        ("LineTotalAmount", basis + allowance),
        ("AllowanceTotalAmount", allowance),
        ("TaxBasisTotalAmount", basis),
    ):
        _text(sums, name, format_amount(amount, document.currency))
    _text(sums, "TaxTotalAmount", format_amount(tax, document.currency), currencyID=document.currency)
    for name, amount in (
        ("GrandTotalAmount", document.total),
        ("TotalPrepaidAmount", document.credits_applied),
        ("DuePayableAmount", document.to_pay),
    ):
        _text(sums, name, format_amount(amount, document.currency))


def _tax(parent: ET.Element, document: InvoiceDocument, *, tax: Decimal, basis: Decimal) -> None:
    element = _child(parent, "ApplicableTradeTax")
    category = _category(document)
    _text(element, "CalculatedAmount", format_amount(tax, document.currency))
    _text(element, "TypeCode", "VAT")
    if category in ("E", "O"):
        _text(element, "ExemptionReason", "No tax")
    _text(element, "BasisAmount", format_amount(basis, document.currency))
    _text(element, "CategoryCode", category)
    _rate(element, document, category)


def _category(document: InvoiceDocument) -> str:
    """Standard rate, zero rate, exempt, or not subject to tax at all."""
    if document.taxes:
        return "S" if any(tax.percent for tax in document.taxes) else "Z"
    return "E" if document.parties.seller.tax_id else "O"


def _rate(parent: ET.Element, document: InvoiceDocument, category: str) -> None:
    if category != "O":
        percent = sum((tax.percent for tax in document.taxes), _ZERO)
        _text(parent, "RateApplicablePercent", format_decimal(percent))


def _allowance(parent: ET.Element, document: InvoiceDocument, amount: Decimal) -> None:
    element = _child(parent, "SpecifiedTradeAllowanceCharge")
    indicator = ET.SubElement(_child(element, "ChargeIndicator"), "udt:Indicator")
    indicator.text = "false"
    _text(element, "ActualAmount", format_amount(amount, document.currency))
    _text(element, "Reason", "Discount")
    tax = _child(element, "CategoryTradeTax")
    category = _category(document)
    _text(tax, "TypeCode", "VAT")
    _text(tax, "CategoryCode", category)
    _rate(tax, document, category)


def _seller(parent: ET.Element, seller: Seller) -> None:
    _text(parent, "Name", seller.name)
    if seller.legal_id:
        _text(_child(parent, "SpecifiedLegalOrganization"), "ID", seller.legal_id)
    _address(parent, seller.address)
    _party_ends(parent, seller.email, seller.tax_id)


def _buyer(parent: ET.Element, buyer: Buyer) -> None:
    _text(parent, "ID", buyer.external_id)
    _text(parent, "Name", buyer.name)
    _address(parent, buyer.address)
    _party_ends(parent, buyer.email, buyer.tax_id)


def _address(parent: ET.Element, address: Address) -> None:
    fields = (
        ("PostcodeCode", address.postal_code),
        ("LineOne", address.line1),
        ("LineTwo", address.line2),
        ("CityName", address.city),
        ("CountryID", address.country),
        ("CountrySubDivisionName", address.state),
    )
    if any(text for _, text in fields):
        element = _child(parent, "PostalTradeAddress")
        for name, text in fields:
            _text(element, name, text)


def _party_ends(parent: ET.Element, email: str | None, tax_id: str | None) -> None:
    if email:
        _text(_child(parent, "URIUniversalCommunication"), "URIID", email, schemeID="EM")
    if tax_id:
        _text(_child(parent, "SpecifiedTaxRegistration"), "ID", tax_id, schemeID="VA")


def _child(parent: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(parent, f"ram:{name}")


def _text(parent: ET.Element, name: str, text: str | None, **attributes: str) -> None:
    """A child that holds text, without characters that XML can't hold; none for None."""
    if text is not None:
        ET.SubElement(parent, f"ram:{name}", attributes).text = _UNWRITABLE.sub(" ", text)


def _date(parent: ET.Element, day: date) -> None:
    ET.SubElement(parent, "udt:DateTimeString", {"format": "102"}).text = f"{day:%Y%m%d}"
