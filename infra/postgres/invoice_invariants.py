"""What must hold of all invoices, as queries that find where it does not. The store's own checks hold row by row; these
add up over rows."""

from typing import LiteralString

from infra.postgres.pool import PgConnection, Row

MAX_FOUND = 100  # of each rule

#: By name, a query of the ids of invoices that break the rule.
RULES: dict[str, LiteralString] = {
    "invoice.lines_differ_from_subtotal": (
        "SELECT i.id FROM invoices i LEFT JOIN invoice_lines l ON l.invoice_id = i.id GROUP BY i.id"
        " HAVING coalesce(sum(l.amount_minor), 0) <> i.subtotal_minor"
    ),
    "invoice.payments_differ_from_amount_paid": (
        "SELECT i.id FROM invoices i LEFT JOIN payments p ON p.invoice_id = i.id AND p.status = 'succeeded'"
        " GROUP BY i.id HAVING coalesce(sum(p.amount_minor), 0) <> i.amount_paid_minor"
    ),
    "invoice.credit_notes_differ_from_amount_credited": (
        "SELECT i.id FROM invoices i LEFT JOIN credit_notes n ON n.invoice_id = i.id GROUP BY i.id"
        " HAVING coalesce(sum(n.amount_minor), 0) <> i.credited_minor"
        " OR coalesce(sum(n.adjusted_minor), 0) <> i.adjusted_minor"
        " OR coalesce(sum(n.refund_minor), 0) <> i.refunded_minor"
    ),
    "credit_note.lines_differ_from_amount": (
        "SELECT n.invoice_id AS id FROM credit_notes n LEFT JOIN credit_note_lines l ON l.credit_note_id = n.id"
        " GROUP BY n.id HAVING coalesce(sum(l.total_minor), 0) <> n.amount_minor"
    ),
    "invoice.line_credited_beyond_its_amount": (
        "SELECT l.invoice_id AS id FROM invoice_lines l JOIN credit_note_lines n ON n.invoice_id = l.invoice_id"
        " AND n.position = l.position GROUP BY l.invoice_id, l.position, l.amount_minor"
        " HAVING sum(n.amount_minor) > l.amount_minor"
    ),
    "invoice.numbers_have_a_gap": (
        "SELECT s.tenant_id AS id FROM invoice_sequences s LEFT JOIN invoices i ON i.tenant_id = s.tenant_id"
        " AND i.number IS NOT NULL GROUP BY s.tenant_id, s.next_number HAVING count(i.id) <> s.next_number - 1"
    ),
    "credit_note.numbers_have_a_gap": (
        "SELECT s.tenant_id AS id FROM credit_note_sequences s LEFT JOIN credit_notes n ON n.tenant_id = s.tenant_id"
        " GROUP BY s.tenant_id, s.next_number HAVING count(n.id) <> s.next_number - 1"
    ),
}


def find_broken(connection: PgConnection) -> dict[str, list[str]]:
    """By rule, the first MAX_FOUND ids of what breaks it (tenants, where the rule is of numbers); empty: all holds."""
    found: dict[str, list[str]] = {}
    for rule, query in RULES.items():
        rows: list[Row] = connection.execute(query + " LIMIT %s", (MAX_FOUND,)).fetchall()
        if rows:
            found[rule] = [row["id"] for row in rows]
    return found
