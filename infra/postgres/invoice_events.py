"""System events of invoices: what changed, said in the same few fields each time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor
from schemas.topics import SystemEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceState:
    """What an event tells of an invoice. `external_id` is its customer's."""

    id: str
    tenant_id: str
    number: str | None
    status: str
    kind: str
    external_id: str
    subscription_id: str | None
    currency: str
    total_minor: int
    amount_due_minor: int
    amount_paid_minor: int = 0


def state_of(row: Row) -> InvoiceState:
    """Of a row as `invoices.load_invoice` gives it."""
    return InvoiceState(
        id=row["id"],
        tenant_id=row["tenant_id"],
        number=row["number"],
        status=row["status"],
        kind=row["kind"],
        external_id=row["external_id"],
        subscription_id=row["subscription_id"],
        currency=row["currency"],
        total_minor=row["total_minor"],
        amount_due_minor=row["amount_due_minor"],
        amount_paid_minor=row["amount_paid_minor"],
    )


def event_row(
    event: SystemEvent, state: InvoiceState, *, now: datetime, more: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """A row of the outbox for `copy_events`. `more`: what this event tells beside the fields of all."""

    def amount(minor: int) -> str:
        return format_amount(from_minor(minor, state.currency), state.currency)

    data = {
        "id": state.id,
        "number": state.number,
        "status": state.status,
        "kind": state.kind,
        "customer": state.external_id,
        "subscription": state.subscription_id,
        "currency": state.currency,
        "total": amount(state.total_minor),
        "amount_due": amount(state.amount_due_minor),
        "amount_paid": amount(state.amount_paid_minor),
        **(more or {}),
    }
    return (new_id(Prefix.SYSTEM_EVENT), state.tenant_id, event, state.id, jsonb(data), now)


def finalized_rows(state: InvoiceState, *, now: datetime) -> list[tuple[Any, ...]]:
    """The events of an invoice that has just been finalized: one with nothing left to pay is paid as well."""
    rows = [event_row(SystemEvent.INVOICE_FINALIZED, state, now=now)]
    if state.status == "paid":
        rows.append(event_row(SystemEvent.INVOICE_PAID, state, now=now))
    return rows


def copy_events(connection: PgConnection, events: Sequence[tuple[Any, ...]]) -> None:
    """Many rows of the outbox at once: id, tenant_id, type, object_id, data, created_at."""
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY outbox (id, tenant_id, type, object_id, data, created_at) FROM STDIN") as copy,
    ):
        for event in events:
            copy.write_row(event)
