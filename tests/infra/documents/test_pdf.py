"""Documents of invoices: data and paper that say the same, and that are the same each time."""

import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from io import BytesIO
from xml.etree import ElementTree as ET

import pytest
from drafthorse.utils import validate_xml
from lxml.etree import XMLSyntaxError
from msgspec import structs
from pypdf import PdfReader

from infra.documents.facturx import write_facturx
from infra.documents.invoice import DocumentLine, DocumentTax, InvoiceDocument
from infra.documents.pdf import write_pdf
from infra.documents.xmp import add_facturx
from schemas.errors import InvariantBroken
from schemas.invoicing import Address, Buyer, Parties, Seller

RAM = "{urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100}"


def document(*, name: str = "Müller & Söhne", locale: str = "de", inclusive: bool = False) -> InvoiceDocument:
    """100.00 less 10.00 and 19% on it, 20.00 of it paid from credit."""
    amount = Decimal("14.37") if inclusive else Decimal("17.10")
    return InvoiceDocument(
        number="INV-000042",
        currency="EUR",
        parties=Parties(
            seller=Seller(name="Beispiel GmbH", tax_id="DE123456789", address=Address(city="Bonn", country="DE")),
            buyer=Buyer(name=name, external_id="acme", address=Address(line1="Rue 1", country="FR")),
            locale=locale,
            timezone="Europe/Berlin",
        ),
        issued_at=datetime(2026, 3, 1, tzinfo=UTC),
        issued_on=date(2026, 3, 1),
        due_on=date(2026, 3, 15),
        period=(date(2026, 2, 1), date(2026, 2, 28)),
        lines=(
            DocumentLine(description="Seats", quantity=Decimal(4), unit_amount=Decimal(25), amount=Decimal("100.00")),
        ),
        subtotal=Decimal("100.00"),
        discount=Decimal("10.00"),
        taxes=(
            DocumentTax(name="VAT", percent=Decimal(19), inclusive=inclusive, base=Decimal("90.00"), amount=amount),
        ),
        total=Decimal("90.00") if inclusive else Decimal("107.10"),
        credits_applied=Decimal("20.00"),
    )


def sums(made: InvoiceDocument) -> dict[str, str]:
    """The amounts of the data, by the name of the element."""
    root = ET.fromstring(write_facturx(made))  # noqa: S314 - our own
    found = root.find(f".//{RAM}SpecifiedTradeSettlementHeaderMonetarySummation")
    assert found is not None
    return {element.tag.removeprefix(RAM): element.text or "" for element in found}


def test_the_data_adds_up_as_the_standard_wants_it() -> None:
    assert sums(document()) == {
        "LineTotalAmount": "100.00",
        "AllowanceTotalAmount": "10.00",
        "TaxBasisTotalAmount": "90.00",
        "TaxTotalAmount": "17.10",
        "GrandTotalAmount": "107.10",
        "TotalPrepaidAmount": "20.00",
        "DuePayableAmount": "87.10",
    }


def test_taxes_inside_of_prices_are_taken_out_of_the_lines() -> None:
    found = sums(document(inclusive=True))
    assert (found["LineTotalAmount"], found["TaxBasisTotalAmount"]) == ("75.63", "75.63")
    assert (found["TaxTotalAmount"], found["GrandTotalAmount"]) == ("14.37", "90.00")


def test_the_data_holds_any_name_that_a_customer_may_have() -> None:
    xml = write_facturx(document(name='A <b> & \x01 "c" 日本'))
    names = [element.text for element in ET.fromstring(xml).iter(f"{RAM}Name")]  # noqa: S314 - our own
    assert names == ["Beispiel GmbH", 'A <b> &   "c" 日本']


def test_the_same_invoice_gives_the_same_bytes_in_another_process() -> None:
    ours = sha256(write_pdf(document())).hexdigest()
    script = (
        "from hashlib import sha256; from infra.documents.pdf import write_pdf;"
        "from tests.infra.documents.test_pdf import document; print(sha256(write_pdf(document())).hexdigest())"
    )
    theirs = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert theirs.stdout.strip() == ours
    assert sha256(write_pdf(document(name="Other"))).hexdigest() != ours


def test_the_pdf_says_that_it_is_pdf_a_3_with_factur_x_inside() -> None:
    pdf = write_pdf(document())
    assert pdf.startswith(b"%PDF-1.7")
    metadata = pdf[pdf.rindex(b"/Subtype/XML>>") :]
    assert b"<pdfaid:part>3</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance>" in metadata
    assert b">BASIC WL</fx:ConformanceLevel>" in metadata
    assert b">factur-x.xml</fx:DocumentFileName>" in metadata
    assert b"/AFRelationship/Data" in pdf


def inside(pdf: bytes) -> bytes:
    """The one file inside a PDF, as a reader of PDFs finds it."""
    attachments = PdfReader(BytesIO(pdf)).attachments
    assert list(attachments) == ["factur-x.xml"]
    [data] = attachments["factur-x.xml"]
    return data


@pytest.mark.parametrize("what", ["taxed", "tax inside", "no tax", "little is known"])
def test_the_data_inside_the_pdf_is_valid_by_the_schema_of_its_profile(what: str) -> None:
    made = document(inclusive=what == "tax inside")
    if what == "no tax":
        made = replace(made, taxes=(), total=Decimal("90.00"), period=None)
    if what == "little is known":
        parties = structs.replace(made.parties, seller=Seller(name="S"), buyer=Buyer(name="B", external_id="b"))
        made = replace(made, parties=parties)
    data = inside(write_pdf(made))
    assert data == write_facturx(made)
    validate_xml(data, "FACTUR-X_BASIC-WL")
    with pytest.raises(XMLSyntaxError, match="TypeCode"):
        validate_xml(data.replace(b"<ram:TypeCode>380</ram:TypeCode>", b""), "FACTUR-X_BASIC-WL")


def test_the_last_table_of_the_pdf_points_at_the_metadata_and_at_the_table_before() -> None:
    pdf = write_pdf(document())
    last = re.search(rb"startxref\n(\d+)\n%%EOF\n\Z", pdf)
    assert last is not None
    table = re.match(rb"xref\n(\d+) 1\n(\d{10}) 00000 n\r\ntrailer\n<<.*?/Prev (\d+)>>", pdf[int(last[1]) :])
    assert table is not None
    number, offset, before = (int(text) for text in table.groups())
    length = re.match(rb"%d 0 obj\n<</Length (\d+)/Type/Metadata/Subtype/XML>>\nstream\n" % number, pdf[offset:])
    assert length is not None
    assert pdf[offset + length.end() + int(length[1]) :].startswith(b"\nendstream\nendobj\n")
    assert pdf[before:].startswith(b"xref\n0 ")


@pytest.mark.parametrize("locale", ["en", "fr", "de-AT", "ja", "ar-EG", "hi", "pt-BR", "tr"])
def test_a_document_is_written_in_any_locale(locale: str) -> None:
    assert write_pdf(document(locale=locale)).startswith(b"%PDF")


def test_characters_that_no_font_has_do_not_keep_a_document_from_being_made() -> None:
    name = '日本語 😀 ខ្មែរ \x01\u202e\u200b\ufffe\\u0001 Ltd \\ " #strong[x] $y$'
    assert len(write_pdf(document(name=name))) > 10_000


def test_an_invoice_with_very_many_lines_goes_over_pages() -> None:
    made = document()
    assert len(write_pdf(replace(made, lines=made.lines * 500))) > len(write_pdf(made)) + 10_000


def test_a_pdf_of_another_structure_is_refused() -> None:
    with pytest.raises(InvariantBroken):
        add_facturx(b"%PDF-1.7\ntrailer", file_name="x", conformance_level="y")
