"""The rows of final invoices, and of their lines with what of the invoices' discounts and taxes falls on each."""

from collections.abc import Iterator
from decimal import Decimal

from infra.postgres.exports import Exported, invoice_pages, invoices_with_lines
from infra.postgres.pool import Database, Row
from ingestion_api.control.invoice_views import line_id_of
from ingestion_api.exports.tables import Column, Kind, Values
from pricing.invoice_shares import LineShare, Shared, share_out
from schemas.money import from_minor

INVOICE_COLUMNS = (
    Column("invoice_id", Kind.TEXT, is_required=True),
    Column("number", Kind.TEXT, is_required=True),
    Column("status", Kind.TEXT, is_required=True),
    Column("kind", Kind.TEXT, is_required=True),
    Column("payer", Kind.TEXT, is_required=True),
    Column("payer_id", Kind.TEXT, is_required=True),
    Column("customer", Kind.TEXT),
    Column("subscription_id", Kind.TEXT),
    Column("currency", Kind.TEXT, is_required=True),
    Column("period_start", Kind.INSTANT, is_required=True),
    Column("period_end", Kind.INSTANT, is_required=True),
    Column("subtotal", Kind.AMOUNT, is_required=True),
    Column("discount", Kind.AMOUNT, is_required=True),
    Column("tax", Kind.AMOUNT, is_required=True),
    Column("total", Kind.AMOUNT, is_required=True),
    Column("credits_applied", Kind.AMOUNT, is_required=True),
    Column("amount_due", Kind.AMOUNT, is_required=True),
    Column("amount_paid", Kind.AMOUNT, is_required=True),
    Column("amount_remaining", Kind.AMOUNT, is_required=True),
    Column("amount_credited", Kind.AMOUNT, is_required=True),
    Column("amount_refunded", Kind.AMOUNT, is_required=True),
    Column("lines", Kind.COUNT, is_required=True),
    Column("created_at", Kind.INSTANT, is_required=True),
    Column("finalized_at", Kind.INSTANT, is_required=True),
    Column("due_at", Kind.INSTANT),
    Column("paid_at", Kind.INSTANT),
    Column("voided_at", Kind.INSTANT),
    Column("marked_uncollectible_at", Kind.INSTANT),
    Column("as_of", Kind.INSTANT),
)
LINE_COLUMNS = (
    Column("line_id", Kind.TEXT, is_required=True),
    Column("invoice_id", Kind.TEXT, is_required=True),
    Column("invoice_number", Kind.TEXT, is_required=True),
    Column("invoice_status", Kind.TEXT, is_required=True),
    Column("finalized_at", Kind.INSTANT, is_required=True),
    Column("position", Kind.COUNT, is_required=True),
    Column("payer", Kind.TEXT, is_required=True),
    Column("customer", Kind.TEXT),
    Column("subscription_id", Kind.TEXT),
    Column("plan", Kind.TEXT),
    Column("key", Kind.TEXT, is_required=True),
    Column("description", Kind.TEXT, is_required=True),
    Column("meter", Kind.TEXT),
    Column("quantity", Kind.NUMBER),
    Column("unit_amount", Kind.NUMBER),
    Column("amount", Kind.AMOUNT, is_required=True),
    Column("discount_share", Kind.AMOUNT, is_required=True),
    Column("added_tax_share", Kind.AMOUNT, is_required=True),
    Column("included_tax_share", Kind.AMOUNT, is_required=True),
    Column("total_share", Kind.AMOUNT, is_required=True),
    Column("currency", Kind.TEXT, is_required=True),
    Column("period_start", Kind.INSTANT, is_required=True),
    Column("period_end", Kind.INSTANT, is_required=True),
)


def invoice_rows(database: Database, exported: Exported) -> Iterator[Values]:
    """A row an invoice, in the order of INVOICE_COLUMNS."""
    for page in invoice_pages(database, exported):
        for invoice in page:
            yield _invoice_row(invoice)


def _invoice_row(invoice: Row) -> Values:
    currency = invoice["currency"]

    def amount(name: str) -> Decimal:
        return from_minor(invoice[f"{name}_minor"], currency)

    remaining = 0 if invoice["status"] == "void" else invoice["amount_due_minor"] - invoice["amount_paid_minor"]
    return (
        *(invoice[name] for name in ("id", "number", "status", "kind", "payer", "customer_id")),
        *(invoice[name] for name in ("customer", "subscription_id", "currency", "period_start", "period_end")),
        *(amount(name) for name in ("subtotal", "discount", "tax", "total")),
        *(amount(name) for name in ("credits_applied", "amount_due", "amount_paid")),
        from_minor(remaining, currency),
        *(amount(name) for name in ("credited", "refunded")),
        *(invoice[name] for name in ("line_count", "created_at", "finalized_at", "due_at", "paid_at", "voided_at")),
        *(invoice[name] for name in ("uncollectible_at", "as_of")),
    )


def line_rows(database: Database, exported: Exported) -> Iterator[Values]:
    """A row a line, in the order of LINE_COLUMNS. The `total_share`s of an invoice add up to its total."""
    for invoice, lines in invoices_with_lines(database, exported):
        for line, share in zip(lines, shares_of(invoice, lines), strict=True):
            yield _line_row(invoice, line, share)


def _line_row(invoice: Row, line: Row, share: LineShare) -> Values:
    # Amounts of lines have at most 19 digits: no context rounds their sums.
    amount = from_minor(line["amount_minor"], invoice["currency"])
    return (
        line_id_of(invoice, line["position"]),
        *(invoice[name] for name in ("id", "number", "status", "finalized_at")),
        line["position"],
        invoice["payer"],
        *(line[name] for name in ("customer", "subscription_id", "plan", "key", "description", "meter")),
        *(line[name] for name in ("quantity", "unit_amount")),
        amount,
        share.discount,
        share.added_tax,
        share.included_tax,
        amount - share.discount + share.added_tax,
        invoice["currency"],
        line["period_start"],
        line["period_end"],
    )


def shares_of(invoice: Row, lines: list[Row]) -> list[LineShare]:
    """What of an invoice's discounts and taxes falls on each of its lines."""
    currency = invoice["currency"]
    return share_out(
        Shared(
            currency=currency,
            lines=[(from_minor(line["amount_minor"], currency), line["subscription_id"]) for line in lines],
            discounts=invoice["discounts"],
            discount=from_minor(invoice["discount_minor"], currency),
            taxes=invoice["taxes"],
            added_tax=from_minor(invoice["added_tax_minor"], currency),
        )
    )
