"""Asking for payments that nobody makes by hand: a row that waits, which the worker charges soon.

The row and what made it due (a finalized invoice, a step of dunning, somebody's request) are one transaction, so none
is forgotten. At most one payment of an invoice is pending: what it asks for can't be paid twice.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.errors import Conflict
from schemas.ids import Prefix, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be collected for an invoice, in minor units."""

    invoice_id: str
    tenant_id: str
    customer_id: str
    currency: str
    amount_minor: int


def wanted(invoice: Row) -> Wanted:
    """All that remains of an invoice, whose row is as `invoices.INVOICE_SQL` gives it."""
    return Wanted(
        invoice_id=invoice["id"],
        tenant_id=invoice["tenant_id"],
        customer_id=invoice["customer_id"],
        currency=invoice["currency"],
        amount_minor=invoice["amount_due_minor"] - invoice["amount_paid_minor"],
    )


def request_payment(connection: PgConnection, invoice: Row, *, now: datetime) -> str | None:
    """Ask the payer's provider for all that remains of a locked open invoice; the payment's id.

    None, and nothing changes: the payer has nothing that can be charged, nothing remains, or a payment is pending.
    `now` is the customer's.
    """
    if invoice["status"] not in ("open", "uncollectible"):
        return None
    return request_payments(connection, [wanted(invoice)], now=now).get(invoice["id"])


def request_payments(
    connection: PgConnection,
    wishes: Iterable[Wanted],
    *,
    metadata: Mapping[str, str] | None = None,
    now: datetime,
) -> dict[str, str]:
    """The same for many invoices that are locked or new; payments by invoice. One without is absent."""
    wishes = [wish for wish in wishes if wish.amount_minor > 0]
    methods = load_methods(connection, {wish.customer_id for wish in wishes})
    made: dict[str, str] = {}
    for wish in wishes:
        if wish.customer_id not in methods:
            continue
        method, clock_id = methods[wish.customer_id]
        payment_id = new_id(Prefix.PAYMENT)
        stored = connection.execute(
            "INSERT INTO payments (id, tenant_id, invoice_id, customer_id, currency, amount_minor, provider, status,"
            " method, test_clock_id, ask_at, metadata, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, 'pending', %s, %s, %s, %s, %s)"
            " ON CONFLICT (invoice_id) WHERE status = 'pending' DO NOTHING",
            (
                payment_id,
                wish.tenant_id,
                wish.invoice_id,
                wish.customer_id,
                wish.currency,
                wish.amount_minor,
                method["provider"],
                jsonb(method),
                clock_id,
                now,
                jsonb(metadata or {}),
                now,
            ),
        )
        if stored.rowcount:
            made[wish.invoice_id] = payment_id
    return made


def load_methods(
    connection: PgConnection, customer_ids: Collection[str]
) -> dict[str, tuple[dict[str, Any], str | None]]:
    """What can be charged of these customers, and the clock of each. A method whose provider its tenant has not
    connected can't be."""
    if not customer_ids:
        return {}
    rows = connection.execute(
        "SELECT c.id, c.payment_method, c.test_clock_id FROM customers c JOIN payment_providers p"
        " ON p.tenant_id = c.tenant_id AND p.provider = c.payment_method ->> 'provider'"
        " WHERE c.id = ANY(%s) AND c.payment_method IS NOT NULL",
        (sorted(customer_ids),),
    )
    return {row["id"]: (row["payment_method"], row["test_clock_id"]) for row in rows}


def check_not_pending(connection: PgConnection, invoice: Row) -> None:
    """Raises Conflict for a locked invoice for which money is on its way: whatever else settles it waits."""
    row = connection.execute(
        "SELECT FROM payments WHERE invoice_id = %s AND status = 'pending'", (invoice["id"],)
    ).fetchone()
    if row is not None:
        raise Conflict("invoice.payment_pending", "A payment of this invoice is pending; wait for its outcome.")


def load_latest_failures(connection: PgConnection, invoice_ids: Sequence[str]) -> dict[str, Row]:
    """By invoice whose last payment failed, that payment: `id`, `failure_code`, `decline_code`, `failed_at`."""
    rows = connection.execute(
        "SELECT * FROM (SELECT DISTINCT ON (invoice_id) invoice_id, id, status, failure_code, decline_code, failed_at"
        " FROM payments WHERE invoice_id = ANY(%s) ORDER BY invoice_id, id DESC) AS latest WHERE status = 'failed'",
        (list(invoice_ids),),
    )
    return {row["invoice_id"]: row for row in rows}
