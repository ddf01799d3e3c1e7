"""Final invoices, their lines and credit notes as exports read them: page by page, each by a key that never changes.

A page is a statement of its own and holds no snapshot, so a slow reader holds up nothing. What is final stays as it is;
only payments, credit notes and the status move on, and a row has them as they were when its page was read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.pool import Database, PgConnection, Row

INVOICES_A_PAGE = 500
#: Lines in memory at once, unless a single invoice has more (see `pricing.invoices.MAX_LINES`).
LINES_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Whose documents, by the instant at which they became final: from `start` on, before `end`. `customer_id`: those
    that are addressed to it."""

    tenant_id: str
    start: datetime
    end: datetime
    customer_id: str | None = None


_INVOICES_SQL = """
SELECT i.id, i.number, i.status, i.kind, i.currency, i.customer_id, i.subscription_id, i.period_start, i.period_end,
       i.subtotal_minor, i.discount_minor, i.tax_minor, i.added_tax_minor, i.total_minor, i.credits_applied_minor,
       i.amount_due_minor, i.amount_paid_minor, i.credited_minor, i.refunded_minor, i.taxes, i.discounts, i.as_of,
       i.created_at, i.finalized_at, i.due_at, i.paid_at, i.voided_at, i.uncollectible_at,
       p.external_id AS payer, coalesce(i.parties -> 'buyer' ->> 'name', p.name) AS payer_name,
       (SELECT c.external_id FROM subscriptions s JOIN customers c ON c.id = s.customer_id
        WHERE s.id = i.subscription_id) AS customer,
       coalesce(i.parties -> 'seller' ->> 'name', t.name) AS seller,
       (SELECT count(*) FROM invoice_lines l WHERE l.invoice_id = i.id) AS line_count
FROM invoices i JOIN customers p ON p.id = i.customer_id JOIN tenants t ON t.id = i.tenant_id
WHERE i.tenant_id = %(tenant_id)s AND i.finalized_at >= %(start)s AND i.finalized_at < %(end)s
  AND (%(customer_id)s::text IS NULL OR i.customer_id = %(customer_id)s)
  AND (i.finalized_at, i.id) > (%(after_at)s, %(after_id)s)
ORDER BY i.finalized_at, i.id LIMIT %(limit)s
"""

# `catalogue`: the plan's own price, where the subscription has negotiated another.
# A fee that is given back at a change of plan is one of the plan before.
_LINES_SQL = """
SELECT l.invoice_id, l.position, l.key, l.description, l.quantity, l.unit_amount, l.exact, l.amount_minor,
       l.period_start, l.period_end, l.price, l.subscription_id, m.key AS meter, m.name AS meter_name,
       c.external_id AS customer, c.name AS customer_name, s.metadata AS tags,
       p.key AS plan, p.name AS plan_name, f.plan_version,
       jsonb_path_query_first(v.prices, '$[*] ? (@.key == $key)', jsonb_build_object('key', l.key)) AS catalogue
FROM invoice_lines l
LEFT JOIN meters m ON m.no = l.meter_no
LEFT JOIN subscriptions s ON s.id = l.subscription_id
LEFT JOIN customers c ON c.id = s.customer_id
LEFT JOIN LATERAL (
    SELECT h.plan_id, h.plan_version, h.price_overrides FROM subscription_phases h
    WHERE h.subscription_id = l.subscription_id
    ORDER BY (h.starts_at < l.period_start OR (h.starts_at = l.period_start AND l.amount_minor >= 0)) DESC,
             CASE WHEN h.starts_at <= l.period_start THEN h.starts_at END DESC NULLS LAST,
             h.starts_at, h.no DESC LIMIT 1) f ON true
LEFT JOIN plans p ON p.id = f.plan_id
LEFT JOIN plan_versions v ON v.plan_id = f.plan_id AND v.version = f.plan_version AND f.price_overrides ? l.key
WHERE l.invoice_id = ANY(%s) ORDER BY l.invoice_id, l.position
"""

_NOTES_SQL = """
SELECT n.id, n.number, n.kind, n.currency, n.amount_minor, n.tax_minor, n.taxes, n.reason, n.created_at,
       i.number AS invoice_number, p.external_id AS payer,
       coalesce(i.parties -> 'buyer' ->> 'name', p.name) AS payer_name,
       coalesce(i.parties -> 'seller' ->> 'name', t.name) AS seller
FROM credit_notes n JOIN invoices i ON i.id = n.invoice_id JOIN customers p ON p.id = n.customer_id
JOIN tenants t ON t.id = n.tenant_id
WHERE n.tenant_id = %(tenant_id)s AND n.created_at >= %(start)s AND n.created_at < %(end)s
  AND (%(customer_id)s::text IS NULL OR n.customer_id = %(customer_id)s) AND n.id > %(after_id)s
ORDER BY n.id LIMIT %(limit)s
"""


def invoice_pages(database: Database, exported: Exported) -> Iterator[list[Row]]:
    """All invoices that became final in the range, whatever they are now, in that order. Raises Retry."""
    after: tuple[datetime, str] = (exported.start, "")
    while True:
        with database.transaction() as connection:
            page = connection.execute(
                _INVOICES_SQL, _bound(exported) | {"after_at": after[0], "after_id": after[1]}
            ).fetchall()
        if page:
            yield page
        if len(page) < INVOICES_A_PAGE:
            return
        after = (page[-1]["finalized_at"], page[-1]["id"])


def invoices_with_lines(database: Database, exported: Exported) -> Iterator[tuple[Row, list[Row]]]:
    """The same invoices, each with its lines in their order. Raises Retry."""
    for page in invoice_pages(database, exported):
        for batch in _batches(page):
            with database.transaction() as connection:
                lines = _load_lines(connection, [invoice["id"] for invoice in batch])
            for invoice in batch:
                yield invoice, lines.pop(invoice["id"])


def credit_notes(database: Database, exported: Exported) -> Iterator[Row]:
    """The credit notes that were made in the range, in that order. Raises Retry."""
    after_id = ""
    while True:
        with database.transaction() as connection:
            page = connection.execute(_NOTES_SQL, _bound(exported) | {"after_id": after_id}).fetchall()
        yield from page
        if len(page) < INVOICES_A_PAGE:
            return
        after_id = page[-1]["id"]


def _bound(exported: Exported) -> dict[str, object]:
    return {
        "tenant_id": exported.tenant_id,
        "customer_id": exported.customer_id,
        "start": exported.start,
        "end": exported.end,
        "limit": INVOICES_A_PAGE,
    }


def _batches(page: Sequence[Row]) -> Iterator[list[Row]]:
    """The page in parts of up to LINES_AT_ONCE lines, of one invoice at least."""
    batch: list[Row] = []
    size = 0
    for invoice in page:
        if batch and size + invoice["line_count"] > LINES_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(invoice)
        size += invoice["line_count"]
    if batch:
        yield batch


def _load_lines(connection: PgConnection, invoice_ids: list[str]) -> dict[str, list[Row]]:
    lines: dict[str, list[Row]] = {invoice_id: [] for invoice_id in invoice_ids}
    for row in connection.execute(_LINES_SQL, (invoice_ids,)):
        lines[row["invoice_id"]].append(row)
    return lines
