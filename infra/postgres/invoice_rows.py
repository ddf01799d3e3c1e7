"""Rows of invoices and of their lines, as PostgreSQL has them, and the numbers that they get."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from schemas.billing import Invoice, StatementKey
from schemas.money import format_amount, format_decimal, to_minor

NUMBER_DIGITS = 6  # at least


def format_number(prefix: str, number: int) -> str:
    """E.g. `INV-000001`."""
    return f"{prefix}-{number:0{NUMBER_DIGITS}d}"


def draw_numbers(connection: PgConnection, wanted: Counter[str]) -> dict[str, int]:
    """By tenant, the first of as many consecutive numbers as are wanted."""
    first: dict[str, int] = {}
    for tenant_id, count in sorted(wanted.items()):
        row = connection.execute(
            "INSERT INTO invoice_sequences AS s (tenant_id, next_number) VALUES (%(tenant_id)s, 1 + %(count)s)"
            " ON CONFLICT (tenant_id) DO UPDATE SET next_number = s.next_number + %(count)s"
            " RETURNING next_number - %(count)s AS first",
            {"tenant_id": tenant_id, "count": count},
        ).fetchone()
        assert row is not None
        first[tenant_id] = row["first"]
    return first


_SAID = (
    *("id", "tenant_id", "customer_id", "subscription_id", "number", "status", "credits_applied_minor"),
    *("amount_due_minor", "as_of", "draft_until", "due_at", "created_at", "finalized_at", "paid_at", "dunning_at"),
    "test_clock_id",
)


def computed_columns(invoice: Invoice) -> dict[str, Any]:
    """What pricing computed of an invoice, by column."""
    currency = invoice.currency
    added = invoice.total - invoice.subtotal + invoice.discount
    return {
        "subtotal_minor": to_minor(invoice.subtotal, currency),
        "discount_minor": to_minor(invoice.discount, currency),
        "tax_minor": to_minor(invoice.tax, currency),
        "added_tax_minor": to_minor(added, currency),
        "total_minor": to_minor(invoice.total, currency),
        "taxes": jsonb(
            [
                {
                    "key": tax.key,
                    "name": tax.name,
                    "percent": format_decimal(tax.percent),
                    "inclusive": tax.inclusive,
                    "base": format_amount(tax.base, currency),
                    "amount": format_amount(tax.amount, currency),
                }
                for tax in invoice.taxes
            ]
        ),
        "discounts": jsonb(
            [{**discount.agreed, "taken": format_amount(discount.taken, currency)} for discount in invoice.discounts]
        ),
    }


def invoice_row(invoice: Invoice, said: Mapping[str, Any]) -> tuple[Any, ...]:
    """A row for `copy_invoices`. `said` has what pricing does not know: the columns of _SAID, terms, parties and
    metadata."""
    return (
        *(said[name] for name in _SAID),
        None if said["terms"] is None else jsonb(said["terms"]),
        None if said["parties"] is None else jsonb(said["parties"]),
        jsonb(said["metadata"]),
        invoice.kind,
        invoice.period.start,
        invoice.period.end,
        invoice.currency,
        *computed_columns(invoice).values(),
    )


def copy_invoices(connection: PgConnection, rows: Sequence[tuple[Any, ...]]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoices (id, tenant_id, customer_id, subscription_id, number, status, credits_applied_minor,"
            " amount_due_minor, as_of, draft_until, due_at, created_at, finalized_at, paid_at, dunning_at,"
            " test_clock_id, terms, parties, metadata, kind, period_start, period_end, currency, subtotal_minor,"
            " discount_minor, tax_minor, added_tax_minor, total_minor, taxes, discounts) FROM STDIN"
        ) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def copy_statements(connection: PgConnection, statements: Iterable[tuple[str, StatementKey]]) -> None:
    """Note on which invoice, by its id, each statement stands. Raises UniqueViolation for one that has one."""
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY invoice_statements (invoice_id, subscription_id, period_end, kind) FROM STDIN") as copy,
    ):
        for invoice_id, statement in statements:
            copy.write_row((invoice_id, statement.subscription_id, statement.period_end, statement.kind))


def copy_lines(connection: PgConnection, invoices: Sequence[tuple[str, str | None, Invoice]]) -> None:
    """Write all lines of invoices, by their ids. A line that names no subscription is of the invoice's, if any."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY invoice_lines (invoice_id, position, key, description, quantity, unit_amount, exact, amount_minor,"
            " period_start, period_end, meter_no, price, explain, subscription_id, is_credit) FROM STDIN"
        ) as copy,
    ):
        for invoice_id, subscription_id, invoice in invoices:
            for position, line in enumerate(invoice.lines):
                copy.write_row(
                    (
                        invoice_id,
                        position,
                        line.key,
                        line.description,
                        line.quantity,
                        line.unit_amount,
                        line.exact,
                        to_minor(line.amount, invoice.currency),
                        line.period.start,
                        line.period.end,
                        line.meter_no,
                        jsonb(line.price),
                        jsonb(line.explain),
                        line.subscription_id or subscription_id,
                        line.is_credit,
                    )
                )
