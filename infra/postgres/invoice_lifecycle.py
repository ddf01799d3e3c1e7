"""What becomes of an invoice: draft → open → paid, void or uncollectible. Each change is the caller's transaction.

Locks are taken in the order of issuing: invoices by id, then subscriptions by id, then customers, then tenants'
sequences.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from infra.postgres import past_due
from infra.postgres.billing_settings import load_parties, load_settings
from infra.postgres.collection import Wanted, check_not_pending, request_payments, wanted
from infra.postgres.invoice_events import copy_events, event_row, finalized_rows, state_of
from infra.postgres.invoice_rows import draw_numbers, format_number
from infra.postgres.invoices import INVOICE_SQL
from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row
from infra.postgres.settlement import (
    Payable,
    book,
    drop_top_up,
    give_back,
    give_up_top_up,
    settle,
    start_top_up,
)
from schemas.billing import InvoiceKind
from schemas.errors import Conflict, NotFound
from schemas.invoicing import OVERDUE_AFTER
from schemas.topics import SystemEvent


def lock_invoice(connection: PgConnection, *, tenant_id: str, id_or_number: str) -> Row:
    """The tenant's invoice by its id or number; nobody changes it before we commit, nor its subscriptions when they are
    past due because of it. Raises NotFound."""
    row = connection.execute(
        INVOICE_SQL + " WHERE i.tenant_id = %s AND (i.id = %s OR i.number = %s) FOR UPDATE OF i",
        (tenant_id, id_or_number, id_or_number),
    ).fetchone()
    if row is None:
        raise NotFound("invoice.not_found", f"There is no invoice {id_or_number!r}.")
    if is_held_against(row):
        past_due.lock_subscriptions(connection, row["subscription_ids"])
    return row


def is_held_against(row: Row) -> bool:
    """Whether an invoice makes its subscriptions past due."""
    return row["status"] == "open" and row["dunning"] is not None and bool(row["subscription_ids"])


def check_draft(row: Row) -> None:
    """Raises Conflict `invoice.finalized` for any but a draft."""
    if row["status"] != "draft":
        raise Conflict("invoice.finalized", f"Invoice {row['number']} is final: it can't be changed any more.")


def check_final(row: Row) -> None:
    """Raises Conflict `invoice.draft` for a draft."""
    if row["status"] == "draft":
        raise Conflict("invoice.draft", f"Invoice {row['id']} is a draft; finalize it first.")


def finalize_drafts(connection: PgConnection, invoice_ids: Sequence[str], *, now: datetime) -> list[str]:
    """Finalize those of these invoices that are drafts still, and return their ids.

    Each gets its number, its due_at, the parties as they are now, and is paid from what its customer has; what remains
    is asked of whoever can be charged. Numbers are
    drawn only here and in issuing, for invoices that the same transaction makes final, so they have no gaps.
    """
    drafts = connection.execute(
        INVOICE_SQL + " WHERE i.id = ANY(%s) AND i.status = 'draft' ORDER BY i.id FOR UPDATE OF i", (list(invoice_ids),)
    ).fetchall()
    if not drafts:
        return []
    settings = load_settings(connection, {row["tenant_id"] for row in drafts})
    settlement = settle(connection, [payable(row) for row in drafts], now=now)
    parties = load_parties(connection, {row["customer_id"] for row in drafts}, settings)
    numbers = draw_numbers(connection, Counter(row["tenant_id"] for row in drafts))
    events: list[tuple[object, ...]] = []
    wishes: list[Wanted] = []
    for row in drafts:
        own = settings[row["tenant_id"]]
        number = format_number(own.invoice_prefix, numbers[row["tenant_id"]])
        numbers[row["tenant_id"]] += 1
        due_minor = max(row["total_minor"], 0) - settlement.applied_minor[row["id"]]
        changed = {
            "number": number,
            "status": "open" if due_minor > 0 else "paid",
            "credits_applied_minor": settlement.applied_minor[row["id"]],
            "amount_due_minor": due_minor,
        }
        connection.execute(
            "UPDATE invoices SET number = %(number)s, status = %(status)s, amount_due_minor = %(amount_due_minor)s,"
            " credits_applied_minor = %(credits_applied_minor)s, parties = %(parties)s, terms = NULL,"
            " draft_until = NULL, due_at = %(due_at)s, finalized_at = %(now)s,"
            " paid_at = CASE WHEN %(status)s = 'paid' THEN %(now)s::timestamptz END,"
            " dunning_at = CASE WHEN %(status)s = 'open' THEN %(dunning_at)s::timestamptz END WHERE id = %(id)s",
            {
                **changed,
                "id": row["id"],
                "parties": jsonb(parties[row["customer_id"]]),
                "due_at": now + timedelta(days=own.net_days),
                "dunning_at": now + timedelta(days=own.net_days) + OVERDUE_AFTER,
                "now": now,
            },
        )
        events.extend(finalized_rows(state_of({**row, **changed}), now=now))
        wishes.append(wanted({**row, **changed}))
    book(connection, settlement, now=now)
    copy_events(connection, events)
    request_payments(connection, wishes, now=now)
    return [row["id"] for row in drafts]


def void_invoice(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Void a locked invoice that no money has paid. What credit had paid goes back to the customer.

    Its lines stay and say what had been billed: it is not billed again. Whoever adds up what is owed passes by invoices
    whose status is `void`. Raises Conflict.
    """
    check_final(row)
    number = row["number"]
    if row["status"] == "void":
        raise Conflict("invoice.void", f"Invoice {number} is void already.")
    if row["amount_paid_minor"]:
        raise Conflict("invoice.has_payments", f"Invoice {number} has been paid; refund it with a credit note.")
    if row["credited_minor"]:
        raise Conflict("invoice.has_credit_notes", f"Invoice {number} has credit notes; credit what is left of it.")
    if row["total_minor"] < 0:
        raise Conflict("invoice.gave_credit", f"Invoice {number} gave its customer credit, which may be used by now.")
    check_not_pending(connection, row)
    give_back(connection, payable(row), applied_minor=row["credits_applied_minor"], now=now)
    if row["kind"] == InvoiceKind.TOP_UP:
        drop_top_up(connection, payable(row), now=now)
    connection.execute(
        "UPDATE invoices SET status = 'void', voided_at = %s, paid_at = NULL WHERE id = %s", (now, row["id"])
    )
    _tell(connection, SystemEvent.INVOICE_VOIDED, row, "void", now)
    _release_subscriptions(connection, row, now)


def mark_uncollectible(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Give a locked open invoice up; it can still be paid. Raises Conflict."""
    check_final(row)
    if row["status"] != "open":
        raise Conflict("invoice.not_open", f"Invoice {row['number']} is {row['status']}, not open.")
    connection.execute(
        "UPDATE invoices SET status = 'uncollectible', uncollectible_at = %s WHERE id = %s", (now, row["id"])
    )
    if row["kind"] == InvoiceKind.TOP_UP:
        give_up_top_up(connection, payable(row), now=now)
    _tell(connection, SystemEvent.INVOICE_MARKED_UNCOLLECTIBLE, row, "uncollectible", now)
    _release_subscriptions(connection, row, now)


def stop_dunning(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Take no further step about a locked overdue invoice, and refuse no feature because of it. Raises Conflict."""
    if row["status"] != "open" or row["dunning_at"] is None or row["dunning"] is None:
        raise Conflict("invoice.not_dunned", f"Nothing is to be done about invoice {row['number'] or row['id']}.")
    connection.execute(
        "UPDATE invoices SET dunning_at = NULL, blocks_at = NULL, dunning_failure = NULL WHERE id = %s", (row["id"],)
    )
    _tell(connection, SystemEvent.INVOICE_UPDATED, row, "open", now)
    _release_subscriptions(connection, row, now)


def reduce_due(
    connection: PgConnection, row: Row, *, paid_minor: int = 0, adjusted_minor: int = 0, now: datetime
) -> str:
    """Note money that came in for a locked invoice, or a credit note's part that lowers what is due; the status after.

    The sums are no more than what remains. When nothing does, the invoice is paid.
    """
    changed = connection.execute(
        "UPDATE invoices SET amount_paid_minor = amount_paid_minor + %(paid)s,"
        " adjusted_minor = adjusted_minor + %(adjusted)s, credited_minor = credited_minor + %(adjusted)s,"
        " amount_due_minor = amount_due_minor - %(adjusted)s,"
        " status = CASE WHEN amount_due_minor - amount_paid_minor = %(paid)s + %(adjusted)s THEN 'paid' ELSE status"
        " END, paid_at = CASE WHEN amount_due_minor - amount_paid_minor = %(paid)s + %(adjusted)s"
        " THEN coalesce(paid_at, %(now)s) ELSE paid_at END"
        " WHERE id = %(id)s RETURNING status, amount_due_minor, amount_paid_minor",
        {"paid": paid_minor, "adjusted": adjusted_minor, "now": now, "id": row["id"]},
    ).fetchone()
    assert changed is not None
    if changed["status"] == "paid" and row["status"] != "paid":
        copy_events(connection, [event_row(SystemEvent.INVOICE_PAID, state_of({**row, **changed}), now=now)])
        _release_subscriptions(connection, row, now)
        if row["kind"] == InvoiceKind.TOP_UP:
            kept_minor = changed["amount_paid_minor"] - row["refunded_minor"]
            start_top_up(connection, payable(row), paid_minor=kept_minor, now=now)
    return changed["status"]


def _release_subscriptions(connection: PgConnection, row: Row, now: datetime) -> None:
    """An invoice that was held against its subscriptions, as `row` says, is so no more, or not as much."""
    if is_held_against(row):
        past_due.refresh(connection, row["subscription_ids"], now=now)


def payable(row: Row) -> Payable:
    """A stored invoice as settlement knows it."""
    return Payable(
        invoice_id=row["id"],
        tenant_id=row["tenant_id"],
        customer_id=row["customer_id"],
        currency=row["currency"],
        total_minor=row["total_minor"],
        kind=row["kind"],
    )


def _tell(connection: PgConnection, event: SystemEvent, row: Row, status: str, now: datetime) -> None:
    copy_events(connection, [event_row(event, state_of({**row, "status": status}), now=now)])
