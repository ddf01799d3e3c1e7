"""Rules of invoices, credit notes and numbers. The store's own checks hold row by row; these add up over rows."""

from infra.postgres.invariants.rule import Of, Rule

_LOOK = (
    "Look at the invoice by GET /v1/invoices/{id}: somebody wrote to its tables past Meterline. Restore what was there."
)
_NUMBERS = (
    "A document was removed past Meterline. Restore it, or note for your auditors which number is missing and why."
)

RULES = (
    Rule(
        name="invoice.lines_differ_from_subtotal",
        of=Of.INVOICE,
        query="SELECT i.id FROM invoices i LEFT JOIN invoice_lines l ON l.invoice_id = i.id WHERE i.id = ANY(%(ids)s)"
        " GROUP BY i.id HAVING coalesce(sum(l.amount_minor), 0) <> i.subtotal_minor",
        advice=_LOOK,
    ),
    Rule(
        name="invoice.lines_without_statement",
        of=Of.INVOICE,
        # Without it the same could be billed once more.
        query="SELECT l.invoice_id AS id FROM invoice_lines l JOIN invoices i ON i.id = l.invoice_id"
        " WHERE l.invoice_id = ANY(%(ids)s) AND NOT EXISTS (SELECT FROM invoice_statements s"
        " WHERE s.invoice_id = l.invoice_id AND s.subscription_id = l.subscription_id)"
        " AND coalesce(l.subscription_id, i.subscription_id) IS NOT NULL",
        advice=_LOOK,
    ),
    Rule(
        name="invoice.parts_differ_from_total",
        of=Of.INVOICE,
        query="SELECT id FROM invoices WHERE id = ANY(%(ids)s) AND"
        " (total_minor <> subtotal_minor - discount_minor + added_tax_minor"
        " OR amount_due_minor <> greatest(total_minor, 0) - credits_applied_minor - adjusted_minor)",
        advice=_LOOK,
    ),
    Rule(
        name="invoice.payments_differ_from_amount_paid",
        of=Of.INVOICE,
        query="SELECT i.id FROM invoices i LEFT JOIN payments p ON p.invoice_id = i.id AND p.status = 'succeeded'"
        " WHERE i.id = ANY(%(ids)s) GROUP BY i.id HAVING coalesce(sum(p.amount_minor - p.excess_minor), 0)"
        " <> i.amount_paid_minor",
        advice="Compare GET /v1/payments?invoice={id} with what your bank or provider says.",
    ),
    Rule(
        name="invoice.paid_without_its_money",
        of=Of.INVOICE,
        query="SELECT i.id FROM invoices i LEFT JOIN payments p ON p.invoice_id = i.id AND p.status = 'succeeded'"
        " WHERE i.id = ANY(%(ids)s) AND i.status = 'paid' GROUP BY i.id HAVING"
        " coalesce(sum(p.amount_minor - p.excess_minor), 0) + i.credits_applied_minor + i.adjusted_minor"
        " <> greatest(i.total_minor, 0)",
        advice="The invoice is called paid and is not: compare its payments and credits with its total.",
    ),
    Rule(
        name="invoice.credit_notes_differ_from_amount_credited",
        of=Of.INVOICE,
        query="SELECT i.id FROM invoices i LEFT JOIN credit_notes n ON n.invoice_id = i.id WHERE i.id = ANY(%(ids)s)"
        " GROUP BY i.id HAVING coalesce(sum(n.amount_minor), 0) <> i.credited_minor"
        " OR coalesce(sum(n.adjusted_minor), 0) <> i.adjusted_minor"
        " OR coalesce(sum(n.refund_minor), 0) <> i.refunded_minor",
        advice=_LOOK,
    ),
    Rule(
        name="credit_note.lines_differ_from_amount",
        of=Of.INVOICE,
        query="SELECT n.invoice_id AS id FROM credit_notes n LEFT JOIN credit_note_lines l ON l.credit_note_id = n.id"
        " WHERE n.invoice_id = ANY(%(ids)s) GROUP BY n.id HAVING coalesce(sum(l.total_minor), 0) <> n.amount_minor",
        advice=_LOOK,
    ),
    Rule(
        name="invoice.line_credited_beyond_its_amount",
        of=Of.INVOICE,
        query="SELECT l.invoice_id AS id FROM invoice_lines l JOIN credit_note_lines n ON n.invoice_id = l.invoice_id"
        " AND n.position = l.position WHERE l.invoice_id = ANY(%(ids)s)"
        " GROUP BY l.invoice_id, l.position, l.amount_minor HAVING sum(n.amount_minor) > l.amount_minor",
        advice=_LOOK,
    ),
    Rule(
        name="payment.refunds_exceed_amount",
        of=Of.INVOICE,
        # What no note asked for goes back of the excess, what notes ask for of the rest.
        query="SELECT p.invoice_id AS id FROM payments p JOIN refunds r ON r.payment_id = p.id AND r.status <> 'failed'"
        " WHERE p.invoice_id = ANY(%(ids)s) GROUP BY p.id HAVING p.status <> 'succeeded'"
        " OR coalesce(sum(r.amount_minor) FILTER (WHERE r.credit_note_id IS NULL), 0) > p.excess_minor"
        " OR coalesce(sum(r.amount_minor) FILTER (WHERE r.credit_note_id IS NOT NULL), 0)"
        " > p.amount_minor - p.excess_minor",
        advice="More goes back than a payment brought: compare the refunds of invoice {id} by GET /v1/refunds?payment=…"
        " with what your provider says.",
    ),
    Rule(
        name="credit_note.refunds_exceed_amount",
        of=Of.INVOICE,
        query="SELECT n.invoice_id AS id FROM credit_notes n JOIN refunds r ON r.credit_note_id = n.id"
        " AND r.status <> 'failed' WHERE n.invoice_id = ANY(%(ids)s) GROUP BY n.id"
        " HAVING sum(r.amount_minor) > n.refund_minor",
        advice="More goes back than a credit note says: compare the refunds of invoice {id} by GET /v1/refunds"
        "?credit_note=… with what your provider says.",
    ),
    Rule(
        name="invoice.wallet_differs_from_credits_applied",
        of=Of.INVOICE,
        # What is given back to a grant that is over is gone at once: it is in the account all the same.
        query="SELECT i.id FROM invoices i LEFT JOIN wallet_transactions t ON t.invoice_id = i.id"
        " AND t.type IN ('invoice', 'invoice_void')"
        " LEFT JOIN wallet_entries e ON e.transaction_id = t.id AND e.account = 'invoice'"
        " WHERE i.id = ANY(%(ids)s) GROUP BY i.id HAVING coalesce(sum(e.amount_minor), 0)"
        " <> CASE WHEN i.status = 'void' THEN 0 ELSE i.credits_applied_minor END",
        advice="Compare the transactions of the customer's wallet with credits_applied of the invoice.",
    ),
    Rule(
        name="invoice.never_overdue",
        of=Of.INVOICE,
        query="SELECT id FROM invoices WHERE id = ANY(%(ids)s) AND status = 'open' AND due_at IS NOT NULL"
        " AND overdue_at IS NULL AND dunning_at IS NULL",
        advice="Nobody will be told when it is overdue. Look after its payment yourself.",
    ),
    Rule(
        name="invoice.numbers_have_a_gap",
        of=Of.TENANT,
        query="SELECT s.tenant_id AS id FROM invoice_sequences s LEFT JOIN invoices i ON i.tenant_id = s.tenant_id"
        " AND i.number IS NOT NULL WHERE s.tenant_id = ANY(%(ids)s) GROUP BY s.tenant_id, s.next_number"
        " HAVING count(i.id) <> s.next_number - 1",
        advice=_NUMBERS,
    ),
    Rule(
        name="credit_note.numbers_have_a_gap",
        of=Of.TENANT,
        query="SELECT s.tenant_id AS id FROM credit_note_sequences s LEFT JOIN credit_notes n"
        " ON n.tenant_id = s.tenant_id WHERE s.tenant_id = ANY(%(ids)s) GROUP BY s.tenant_id, s.next_number"
        " HAVING count(n.id) <> s.next_number - 1",
        advice=_NUMBERS,
    ),
)
