"""Issuing: numbers, settlement, rows, lines and system events of new invoices, in the caller's one transaction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from infra.crash_points import crash_point
from infra.postgres.billing_settings import load_parties, load_settings
from infra.postgres.collection import Wanted, request_payments
from infra.postgres.invoice_events import InvoiceState, copy_events, event_row, finalized_rows
from infra.postgres.invoice_rows import (
    copy_invoices,
    copy_lines,
    copy_statements,
    draw_numbers,
    format_number,
    invoice_row,
)
from infra.postgres.pool import PgConnection
from infra.postgres.settlement import Payable, book, settle
from infra.postgres.test_clocks import load_customer_clocks
from schemas.billing import Invoice, StatementKey
from schemas.ids import Prefix, new_id
from schemas.invoicing import OVERDUE_AFTER, BillingSettings, Parties
from schemas.money import to_minor
from schemas.topics import SystemEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInvoice:
    """An invoice to be issued. `customer_id` and `external_id` are the payer's; `as_of`: every event acknowledged
    before it is in the usage. `is_draft` None: as the tenant's `draft_hours` say; True: until somebody finalizes it;
    False: finalized at once. `terms` is what a one-off was made of, kept while it is a draft. `statements` are those
    that stand on it: of its subscription one, of several subscriptions one of each."""

    tenant_id: str
    customer_id: str
    external_id: str
    subscription_id: str | None
    invoice: Invoice
    as_of: datetime | None
    is_draft: bool | None = None
    terms: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] | None = None
    statements: Sequence[StatementKey] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An issued invoice, in the order of those given. Amounts in minor units; a draft has no number, no due_at and
    no parties yet, and nothing has paid it. `draft_until` None: it is final, or waits for somebody."""

    id: str
    number: str | None
    status: str
    credits_applied_minor: int
    amount_due_minor: int
    due_at: datetime | None
    draft_until: datetime | None
    parties: Parties | None


def issue_invoices(connection: PgConnection, invoices: Sequence[NewInvoice], *, now: datetime) -> list[Issued]:
    """Store invoices with their lines and system events: drafts as they are, the others settled and numbered, and what
    remains of them asked of whoever can be charged.

    Locks customers by id, then tenants' sequences by id. Numbers are drawn only for invoices that this transaction
    inserts, so they have no gaps.
    """
    settings = load_settings(connection, {new.tenant_id for new in invoices})
    ids = [new_id(Prefix.INVOICE) for _ in invoices]
    pairs = list(zip(ids, invoices, strict=True))
    final = [(invoice_id, new) for invoice_id, new in pairs if not _is_draft(new, settings[new.tenant_id])]
    settlement = settle(connection, [_payable(invoice_id, new) for invoice_id, new in final], now=now)
    parties = load_parties(connection, {new.customer_id for _, new in final}, settings)
    numbers = draw_numbers(connection, Counter(new.tenant_id for _, new in final))
    crash_point("billing.numbered")
    made: dict[str, Issued] = {}
    for invoice_id, new in final:
        number = format_number(settings[new.tenant_id].invoice_prefix, numbers[new.tenant_id])
        numbers[new.tenant_id] += 1
        applied = settlement.applied_minor[invoice_id]
        made[invoice_id] = _finalized(invoice_id, new, number, applied, settings, parties[new.customer_id], now)
    issued = [made.get(invoice_id) or _draft(invoice_id, new, settings, now) for invoice_id, new in pairs]
    stored = list(zip(invoices, issued, strict=True))
    clocks = load_customer_clocks(connection, {new.customer_id for new in invoices})
    copy_invoices(connection, [_row(new, one, clocks.get(new.customer_id), now) for new, one in stored])
    crash_point("billing.invoices_written")
    copy_statements(connection, [(one.id, statement) for new, one in stored for statement in new.statements])
    crash_point("billing.statements_written")
    copy_lines(connection, [(one.id, new.subscription_id, new.invoice) for new, one in stored])
    crash_point("billing.lines_written")
    book(connection, settlement, now=now)
    crash_point("billing.credits_written")
    copy_events(connection, [event for new, one in stored for event in _events(new, one, now)])
    request_payments(connection, [_wanted(new, one) for new, one in stored if one.status == "open"], now=now)
    return issued


def _is_draft(new: NewInvoice, settings: BillingSettings) -> bool:
    return settings.draft_hours > 0 if new.is_draft is None else new.is_draft


def _payable(invoice_id: str, new: NewInvoice) -> Payable:
    return Payable(
        invoice_id=invoice_id,
        tenant_id=new.tenant_id,
        customer_id=new.customer_id,
        currency=new.invoice.currency,
        total_minor=to_minor(new.invoice.total, new.invoice.currency),
        kind=new.invoice.kind,
    )


def _wanted(new: NewInvoice, one: Issued) -> Wanted:
    return Wanted(
        invoice_id=one.id,
        tenant_id=new.tenant_id,
        customer_id=new.customer_id,
        currency=new.invoice.currency,
        amount_minor=one.amount_due_minor,
    )


def _finalized(
    invoice_id: str,
    new: NewInvoice,
    number: str,
    applied_minor: int,
    settings: Mapping[str, BillingSettings],
    parties: Parties,
    now: datetime,
) -> Issued:
    due_minor = max(to_minor(new.invoice.total, new.invoice.currency), 0) - applied_minor
    return Issued(
        id=invoice_id,
        number=number,
        status="open" if due_minor > 0 else "paid",  # nothing to pay is paid
        credits_applied_minor=applied_minor,
        amount_due_minor=due_minor,
        due_at=now + timedelta(days=settings[new.tenant_id].net_days),
        draft_until=None,
        parties=parties,
    )


def _draft(invoice_id: str, new: NewInvoice, settings: Mapping[str, BillingSettings], now: datetime) -> Issued:
    hours = settings[new.tenant_id].draft_hours
    return Issued(
        id=invoice_id,
        number=None,
        status="draft",
        credits_applied_minor=0,
        amount_due_minor=max(to_minor(new.invoice.total, new.invoice.currency), 0),
        due_at=None,
        draft_until=now + timedelta(hours=hours) if new.is_draft is None else None,
        parties=None,
    )


def _row(new: NewInvoice, one: Issued, clock_id: str | None, now: datetime) -> tuple[Any, ...]:
    return invoice_row(
        new.invoice,
        {
            "id": one.id,
            "tenant_id": new.tenant_id,
            "customer_id": new.customer_id,
            "subscription_id": new.subscription_id,
            "number": one.number,
            "status": one.status,
            "credits_applied_minor": one.credits_applied_minor,
            "amount_due_minor": one.amount_due_minor,
            "as_of": new.as_of,
            "terms": new.terms,
            "parties": one.parties,
            "metadata": new.metadata or {},
            "draft_until": one.draft_until,
            "due_at": one.due_at,
            "created_at": now,
            "finalized_at": None if one.status == "draft" else now,
            "paid_at": now if one.status == "paid" else None,
            "dunning_at": one.due_at + OVERDUE_AFTER if one.due_at is not None and one.status == "open" else None,
            "test_clock_id": clock_id,
        },
    )


def _events(new: NewInvoice, one: Issued, now: datetime) -> list[tuple[Any, ...]]:
    currency = new.invoice.currency
    state = InvoiceState(
        id=one.id,
        tenant_id=new.tenant_id,
        number=one.number,
        status=one.status,
        kind=new.invoice.kind,
        external_id=new.external_id,
        subscription_id=new.subscription_id,
        currency=currency,
        total_minor=to_minor(new.invoice.total, currency),
        amount_due_minor=one.amount_due_minor,
    )
    if one.status == "draft":
        return [event_row(SystemEvent.INVOICE_CREATED, state, now=now)]
    return finalized_rows(state, now=now)
