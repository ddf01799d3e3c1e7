"""Many final invoices at once, for tests of what reads them."""

from decimal import Decimal

from infra.postgres.pool import Database


def copy_invoice(
    database: Database, tenant_id: str, *, invoices: int, lines: int, last_quantity: Decimal | None = None
) -> None:
    """Copy the tenant's INV-000001, of one line, so often, with so many lines each. What is exported last is the
    last line, which gets `last_quantity`."""
    bound = {"id": tenant_id, "invoices": invoices, "lines": lines, "last_quantity": last_quantity}
    with database.transaction() as connection:
        connection.execute(
            "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT i.*, n FROM invoices i, generate_series(1, %(invoices)s) n"
            " WHERE i.tenant_id = %(id)s AND i.number = 'INV-000001'",
            bound,
        )
        connection.execute(
            "UPDATE made SET id = id || lpad(n::text, 8, '0'), number = 'X-' || n, subscription_id = NULL,"
            " subtotal_minor = %(lines)s * total_minor, total_minor = %(lines)s * total_minor,"
            " amount_due_minor = %(lines)s * amount_due_minor, finalized_at = finalized_at + n * interval '1 second'",
            bound,
        )
        connection.execute("ALTER TABLE made DROP COLUMN n")
        connection.execute("INSERT INTO invoices SELECT * FROM made")
        connection.execute(
            "INSERT INTO invoice_lines (invoice_id, position, key, description, quantity, exact, amount_minor,"
            " period_start, period_end, price, explain) SELECT m.id, p, l.key, l.description,"
            " CASE WHEN m.number = 'X-' || %(invoices)s AND p = %(lines)s - 1 THEN %(last_quantity)s::numeric END,"
            " l.exact, l.amount_minor, l.period_start, l.period_end, l.price, l.explain"
            " FROM made m, generate_series(0, %(lines)s - 1) p, invoice_lines l JOIN invoices i ON i.id = l.invoice_id"
            " WHERE i.tenant_id = %(id)s AND i.number = 'INV-000001'",
            bound,
        )
