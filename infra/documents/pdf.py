"""The PDF of an invoice: PDF/A-3 with its Factur-X data inside. The same invoice gives the same bytes.

Its fonts come with the typesetter; a folder of further ones may be named, for scripts that those do not have.
"""

import json
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, cast

import typst
from babel import Locale
from babel.dates import format_date, format_interval
from babel.numbers import format_currency, format_decimal

from infra.documents.facturx import CONFORMANCE_LEVEL, FILE_NAME, write_facturx
from infra.documents.invoice import DocumentLine, DocumentTax, InvoiceDocument
from infra.documents.words import words_of
from infra.documents.xmp import add_facturx
from schemas.errors import InvariantBroken
from schemas.invoicing import Address

STANDARD = "a-3b"
MAX_ROUNDS = 50  # of finding characters that no font has; a round finds many
UNSHOWN = "?"

_TEMPLATE = files("infra.documents").joinpath("invoice.typ").read_bytes()
_NUMBERED = re.compile(r"\\u\{([0-9a-f]+)\}")
#: Control and formatting characters.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]")
_MISSING = re.compile(r'the text `"(.+?)"` could not be displayed')


def write_pdf(document: InvoiceDocument, *, font_folder: str = "") -> bytes:
    """The document as a PDF, in the customer's locale. A character that no font has is shown as a question mark; the
    data inside has it."""
    facturx = write_facturx(document).decode()
    shown = json.dumps(_printable(_shown(document)), ensure_ascii=False)
    for _ in range(MAX_ROUNDS):
        try:
            pdf = _typeset(shown, facturx, font_folder)
        except typst.TypstError as error:
            missing = _missing(error.diagnostic)
            if not missing:
                raise InvariantBroken("document.not_typeset", f"{document.number}: {error.message}") from error
            for character in missing:
                shown = shown.replace(character, UNSHOWN)
        else:
            return add_facturx(pdf, file_name=FILE_NAME, conformance_level=CONFORMANCE_LEVEL)
    raise InvariantBroken("document.not_typeset", f"{document.number} has too many characters that no font has")


def _printable(value: Any) -> Any:
    """The same texts, lists and objects with spaces for what is no visible character."""
    match value:
        case str():
            return _UNPRINTABLE.sub(" ", value)
        case dict():
            return {name: _printable(item) for name, item in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_printable(item) for item in cast("list[Any]", value)]
        case _:
            return value


def _missing(diagnostic: str) -> set[str]:
    """The characters that the typesetter says no font has; it writes some of them by their number."""
    texts = [_NUMBERED.sub(lambda found: chr(int(found[1], 16)), text) for text in _MISSING.findall(diagnostic)]
    return {character for text in texts for character in text if not character.isascii()}


def _typeset(shown: str, facturx: str, font_folder: str) -> bytes:
    pdf = typst.compile(
        _TEMPLATE,
        sys_inputs={"invoice": shown, "facturx": facturx, "file_name": FILE_NAME},
        pdf_standards=[STANDARD],
        ignore_system_fonts=True,
        font_paths=_fonts(font_folder),
    )
    assert isinstance(pdf, bytes)
    return pdf


@cache
def _fonts(folder: str) -> typst.Fonts:
    """The bundled fonts, and those of the folder if one is named. What a machine has besides is no part of it."""
    return typst.Fonts(include_system_fonts=False, font_paths=[folder] if folder else [])


def _shown(document: InvoiceDocument) -> dict[str, Any]:
    """All that the template shows, as text."""
    locale = Locale.parse(document.parties.locale.replace("-", "_"))
    words = words_of(locale.language)
    return {
        "words": words,
        "language": locale.language,
        "number": document.number,
        "year": document.issued_on.year,
        "month": document.issued_on.month,
        "day": document.issued_on.day,
        "seller": _seller(document, words, locale),
        "buyer": _buyer(document, words, locale),
        "facts": _facts(document, words, locale),
        "lines": [_line(line, document.currency, words, locale) for line in document.lines],
        "sums": _sums(document, words, locale),
        "to_pay": _money(document.to_pay, document.currency, locale),
        "notes": (document.parties.footer or "").splitlines(),
    }


def _seller(document: InvoiceDocument, words: Mapping[str, str], locale: Locale) -> dict[str, Any]:
    seller = document.parties.seller
    lines = _address(seller.address, locale)
    lines += [text for text in (seller.email,) if text]
    lines += [f"{words['tax_id']} {seller.tax_id}"] if seller.tax_id else []
    lines += [f"{words['company_id']} {seller.legal_id}"] if seller.legal_id else []
    return {"name": seller.name or "", "lines": lines}


def _buyer(document: InvoiceDocument, words: Mapping[str, str], locale: Locale) -> dict[str, Any]:
    buyer = document.parties.buyer
    lines = _address(buyer.address, locale)
    lines += [text for text in (buyer.email,) if text]
    lines += [f"{words['tax_id']} {buyer.tax_id}"] if buyer.tax_id else []
    return {"name": buyer.name, "lines": lines}


def _address(address: Address, locale: Locale) -> list[str]:
    place = " ".join(text for text in (address.postal_code, address.city, address.state) if text)
    country = None if address.country is None else locale.territories.get(address.country, address.country)
    return [text for text in (address.line1, address.line2, place, country) if text]


def _facts(document: InvoiceDocument, words: Mapping[str, str], locale: Locale) -> list[tuple[str, str]]:
    facts = [
        (words["number"], document.number),
        (words["issued"], _day(document.issued_on, locale)),
        (words["due"], _day(document.due_on, locale)),
        (words["customer"], document.parties.buyer.external_id),
    ]
    if document.period is not None:
        first, last = document.period
        facts.append((words["period"], _spaces(format_interval(first, last, "yMMMd", locale=locale))))
    return facts


def _line(line: DocumentLine, currency: str, words: Mapping[str, str], locale: Locale) -> dict[str, str]:
    heading = line.heading
    return {
        "heading": "" if heading is None else f"{words['subscription']} {heading.subscription_id} ({heading.customer})",
        "description": line.description,
        "quantity": "" if line.quantity is None else _number(line.quantity, locale),
        "unit_amount": "" if line.unit_amount is None else _unit(line.unit_amount, currency, locale),
        "amount": _money(line.amount, currency, locale),
    }


def _sums(document: InvoiceDocument, words: Mapping[str, str], locale: Locale) -> list[tuple[str, str]]:
    def money(amount: Decimal) -> str:
        return _money(amount, document.currency, locale)

    sums: list[tuple[str, str]] = []
    if document.discount or document.taxes or document.credits_applied:
        sums.append((words["subtotal"], money(document.subtotal)))
    if document.discount:
        sums.append((words["discount"], money(-document.discount)))
    sums += [(_tax_name(tax, words, locale), money(tax.amount)) for tax in document.taxes]
    sums.append((words["total"], money(document.total)))
    if document.credits_applied:
        sums.append((words["credit"], money(-document.credits_applied)))
    return sums


def _tax_name(tax: DocumentTax, words: Mapping[str, str], locale: Locale) -> str:
    percent = f"{tax.name} {_number(tax.percent, locale)} %"
    return f"{percent} ({words['included']})" if tax.inclusive else percent


def _money(amount: Decimal, currency: str, locale: Locale) -> str:
    return _spaces(format_currency(amount, currency, locale=locale))


def _unit(amount: Decimal, currency: str, locale: Locale) -> str:
    """A price of one, with every digit of it."""
    return _spaces(format_currency(amount, currency, locale=locale, decimal_quantization=False))


def _number(number: Decimal, locale: Locale) -> str:
    """Every digit of it."""
    return _spaces(format_decimal(number, locale=locale, decimal_quantization=False))


def _day(day: date, locale: Locale) -> str:
    return _spaces(format_date(day, "medium", locale=locale))


def _spaces(text: str) -> str:
    """Thin spaces of formats as ones that every font has."""
    return text.replace("\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}").replace("\N{THIN SPACE}", " ")
