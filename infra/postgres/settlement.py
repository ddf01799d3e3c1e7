"""What pays invoices by itself when they are finalized: today the customer's credit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from infra.postgres.credits import CreditEntry, append_entries, lock_balances
from infra.postgres.pool import PgConnection
from schemas.money import to_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Payable:
    """An invoice about to be finalized. A negative total is owed to the customer."""

    invoice_id: str
    tenant_id: str
    customer_id: str
    currency: str
    total_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What `settle` decided: by invoice id what is applied, from 0 to its total; and what is still to be written."""

    applied_minor: dict[str, int]
    entries: tuple[CreditEntry, ...]


def settle(connection: PgConnection, invoices: Sequence[Payable]) -> Settlement:
    """Decide what pays each of the invoices, in their order: one may use what one before it gave.

    Locks the customers' rows in the order of their ids, until the caller's transaction ends. Writes nothing: the
    invoices need not be there yet. `book` does, once they are.
    """
    balances = {
        (customer_id, currency): to_minor(balance, currency)
        for (customer_id, currency), balance in lock_balances(
            connection, {invoice.customer_id for invoice in invoices if invoice.total_minor}
        ).items()
    }
    applied: dict[str, int] = {}
    entries: list[CreditEntry] = []
    for invoice in invoices:
        place = (invoice.customer_id, invoice.currency)
        balance = balances.get(place, 0)
        applied[invoice.invoice_id] = max(min(balance, invoice.total_minor), 0)
        change = max(-invoice.total_minor, 0) - applied[invoice.invoice_id]
        balances[place] = balance + change
        if change:
            entries.append(_entry(invoice, change))
    return Settlement(applied_minor=applied, entries=tuple(entries))


def give_back(connection: PgConnection, invoice: Payable, *, applied_minor: int, now: datetime) -> None:
    """Return to the customer what had paid an invoice that is voided now; the invoice's row is locked."""
    if applied_minor:
        give_credit(connection, [_entry(invoice, applied_minor, reason="void")], now=now)


def give_credit(connection: PgConnection, entries: Sequence[CreditEntry], *, now: datetime) -> None:
    """Add to customers' balances, in the caller's transaction. Locks the customers' rows."""
    lock_balances(connection, {entry.customer_id for entry in entries})
    append_entries(connection, entries, now=now)


def book(connection: PgConnection, settlement: Settlement, *, now: datetime) -> None:
    """Write what was decided, in the same transaction; the invoices are there by now."""
    append_entries(connection, settlement.entries, now=now)


def _entry(invoice: Payable, amount_minor: int, *, reason: str = "invoice") -> CreditEntry:
    return CreditEntry(
        tenant_id=invoice.tenant_id,
        customer_id=invoice.customer_id,
        currency=invoice.currency,
        amount_minor=amount_minor,
        invoice_id=invoice.invoice_id,
        reason=reason,
    )
