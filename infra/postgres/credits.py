"""Customer credit: an entry each time an invoice or one of its credit notes gave some or used some. Entries are never
edited; a balance is their sum, one a currency, and never below zero."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from infra.postgres.pool import PgConnection
from schemas.money import from_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditEntry:
    """What one invoice did to the balance: more than 0 gave, less than 0 used.

    `reason`: `invoice` at its finalization, `void` when what had paid it came back, `credit_note`.
    """

    tenant_id: str
    customer_id: str
    currency: str
    amount_minor: int
    invoice_id: str
    reason: str = "invoice"
    credit_note_id: str | None = None


def load_balances(connection: PgConnection, *, customer_ids: Sequence[str]) -> dict[str, dict[str, Decimal]]:
    """The balances of each of these customers by currency; a currency that never had an entry is absent."""
    balances: dict[str, dict[str, Decimal]] = {customer_id: {} for customer_id in customer_ids}
    for (customer_id, currency), balance in _sum_entries(connection, customer_ids).items():
        balances[customer_id][currency] = balance
    return balances


def lock_balances(connection: PgConnection, customer_ids: Collection[str]) -> dict[tuple[str, str], Decimal]:
    """Balances by (customer_id, currency), which nobody else may change until the caller's transaction ends.

    The lock is on the customers' rows, in the order of their ids. It lets others refer to a customer meanwhile.
    """
    ids = sorted(customer_ids)
    connection.execute("SELECT 1 FROM customers WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE", (ids,))
    return _sum_entries(connection, ids)  # a statement of its own: it sees what those we waited for have committed


def append_entries(connection: PgConnection, entries: Sequence[CreditEntry], *, now: datetime) -> None:
    """Write entries; their customers' balances are locked by the caller."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY customer_credits (tenant_id, customer_id, currency, amount_minor, invoice_id, reason, credit_note_id,"
            " created_at) FROM STDIN"
        ) as copy,
    ):
        for entry in entries:
            copy.write_row(
                (
                    entry.tenant_id,
                    entry.customer_id,
                    entry.currency,
                    entry.amount_minor,
                    entry.invoice_id,
                    entry.reason,
                    entry.credit_note_id,
                    now,
                )
            )


def _sum_entries(connection: PgConnection, customer_ids: Sequence[str]) -> dict[tuple[str, str], Decimal]:
    rows = connection.execute(
        "SELECT customer_id, currency, sum(amount_minor) AS balance_minor FROM customer_credits"
        " WHERE customer_id = ANY(%s) GROUP BY customer_id, currency",
        (list(customer_ids),),
    )
    return {
        (row["customer_id"], row["currency"]): from_minor(int(row["balance_minor"]), row["currency"]) for row in rows
    }
