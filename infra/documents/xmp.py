"""The metadata that makes a PDF with an XML file inside a Factur-X invoice.

PDF/A asks that metadata of its own be described: the four properties of Factur-X and their schema are added to what is
there, by an incremental update as the PDF standard has it: a new version of one object, and a table that says where.
"""

import re

from schemas.errors import InvariantBroken

_NAMESPACE = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"
_PROPERTIES = (
    ("DocumentFileName", "The name of the embedded XML document"),
    ("DocumentType", "The type of the hybrid document"),
    ("Version", "The version of the standard of the embedded XML document"),
    ("ConformanceLevel", "The conformance level of the embedded XML document"),
)
_METADATA = re.compile(
    rb"\n(\d+) 0 obj\n<</Length \d+/Type/Metadata/Subtype/XML>>\nstream\n(.*?)\nendstream", re.DOTALL
)
_TRAILER = re.compile(rb"trailer\n<</Size (\d+)(/Root .*?)>>\nstartxref\n(\d+)\n%%EOF\s*\Z", re.DOTALL)
_SCHEMAS = b"<pdfaExtension:schemas><rdf:Bag>"
_END = b"</rdf:Description>"


def add_facturx(pdf: bytes, *, file_name: str, conformance_level: str) -> bytes:
    """The PDF with the metadata of Factur-X. Raises InvariantBroken for a PDF of another typesetter's."""
    metadata, trailer = _METADATA.search(pdf), _TRAILER.search(pdf)
    if metadata is None or trailer is None or _SCHEMAS not in metadata[2] or _END not in metadata[2]:
        raise InvariantBroken("document.unknown_structure", "the typesetter's PDF has another structure than expected")
    xmp = metadata[2].replace(_SCHEMAS, _SCHEMAS + _schema(), 1)
    head, end, tail = xmp.rpartition(_END)
    xmp = head + _values(file_name, conformance_level) + end + tail
    number = metadata[1]
    separator = b"" if pdf.endswith(b"\n") else b"\n"
    start = len(pdf) + len(separator)
    body = b"%b 0 obj\n<</Length %d/Type/Metadata/Subtype/XML>>\nstream\n%b\nendstream\nendobj\n" % (
        number,
        len(xmp),
        xmp,
    )
    table = b"xref\n%b 1\n%010d 00000 n\r\ntrailer\n<</Size %b%b/Prev %b>>\nstartxref\n%d\n%%%%EOF\n" % (
        number,
        start,
        trailer[1],
        trailer[2],
        trailer[3],
        start + len(body),
    )
    return pdf + separator + body + table


def _schema() -> bytes:
    properties = "".join(
        '<rdf:li rdf:parseType="Resource"><pdfaProperty:category>external</pdfaProperty:category>'
        f"<pdfaProperty:description>{description}</pdfaProperty:description><pdfaProperty:name>{name}"
        "</pdfaProperty:name><pdfaProperty:valueType>Text</pdfaProperty:valueType></rdf:li>"
        for name, description in _PROPERTIES
    )
    return (
        '<rdf:li rdf:parseType="Resource"><pdfaSchema:schema>Factur-X PDFA Extension Schema</pdfaSchema:schema>'
        f"<pdfaSchema:namespaceURI>{_NAMESPACE}</pdfaSchema:namespaceURI><pdfaSchema:prefix>fx</pdfaSchema:prefix>"
        f"<pdfaSchema:property><rdf:Seq>{properties}</rdf:Seq></pdfaSchema:property></rdf:li>"
    ).encode()


def _values(file_name: str, conformance_level: str) -> bytes:
    values = {
        "DocumentFileName": file_name,
        "DocumentType": "INVOICE",
        "Version": "1.0",
        "ConformanceLevel": conformance_level,
    }
    return "".join(f'<fx:{name} xmlns:fx="{_NAMESPACE}">{values[name]}</fx:{name}>' for name, _ in _PROPERTIES).encode()
