"""The documents of invoices: what is sent to customers and kept for the tax office."""

import msgspec
from starlette.responses import Response

from infra.documents.invoice import read_document
from infra.documents.pdf import write_pdf
from infra.postgres import invoices
from infra.postgres.billing_settings import load_parties, load_settings
from infra.postgres.pool import PgConnection, Row
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.routing import house_router
from schemas.errors import NotFound
from schemas.invoicing import Parties

PDF = "application/pdf"

router = house_router("invoices")


@router.get(
    "/v1/invoices/{invoice}/pdf",
    response_class=Response,
    responses={200: {"description": "The PDF.", "content": {PDF: {"schema": {"type": "string", "format": "binary"}}}}},
    operation_id="get_invoice_pdf",
)
def get_invoice_pdf(invoice: str, principal: Reader, context: FromContext) -> Response:
    """A final invoice as it was issued: PDF/A-3 with its Factur-X data (profile BASIC WL) inside, in the customer's
    locale. It is the same to the byte each time, whatever becomes of the invoice."""
    with context.database.transaction() as connection:
        row = invoices.load_invoice(connection, tenant_id=principal.tenant_id, id_or_number=invoice)
        if row is None:
            raise NotFound("invoice.not_found", f"There is no invoice {invoice!r}.")
        lines = invoices.load_lines(connection, [row["id"]])[row["id"]]
        parties = _parties(connection, row)
        customers = invoices.load_line_customers(connection, row["id"])
    pdf = write_pdf(read_document(row, lines, parties, customers), font_folder=context.settings.document_fonts)
    name = row["number"]
    return Response(pdf, media_type=PDF, headers={"content-disposition": f'inline; filename="{name}.pdf"'})


def _parties(connection: PgConnection, row: Row) -> Parties:
    """Those that were kept at finalization; of a draft, and of an invoice that is older than that, those of now."""
    kept = invoices.load_parties(connection, row["id"])
    if kept is not None:
        return msgspec.convert(kept, Parties)
    settings = load_settings(connection, [row["tenant_id"]])
    return load_parties(connection, [row["customer_id"]], settings)[row["customer_id"]]
