"""Refunds by the provider that took the money: of a credit note, or of what was paid beyond what was due."""

from datetime import datetime
from typing import Any

from infra.payments.providers import Outcome, Provider, Result
from infra.postgres import asked, outbox
from infra.postgres.pool import PgConnection, Row
from schemas.errors import Conflict
from schemas.ids import Prefix, new_id
from schemas.money import format_amount, from_minor
from schemas.topics import SystemEvent

_REFUND_SQL = """
SELECT r.*, p.invoice_id, p.currency, p.provider, p.reference AS payment_reference
FROM refunds r JOIN payments p ON p.id = r.payment_id
"""


def request_refund(
    connection: PgConnection,
    payment: Row,
    *,
    amount_minor: int,
    credit_note_id: str | None,
    retry_of: str | None = None,
    now: datetime,
) -> str:
    """Let the worker pay back a part of a succeeded payment soon; the refund's id. Its invoice is locked."""
    refund_id = new_id(Prefix.REFUND)
    connection.execute(
        "INSERT INTO refunds (id, tenant_id, payment_id, credit_note_id, amount_minor, status, retry_of, test_clock_id,"
        " ask_at, created_at) VALUES (%s, %s, %s, %s, %s, 'pending', %s, %s, %s, %s)",
        (
            refund_id,
            payment["tenant_id"],
            payment["id"],
            credit_note_id,
            amount_minor,
            retry_of,
            payment["test_clock_id"],
            now,
            now,
        ),
    )
    _tell(connection, refund_id, SystemEvent.REFUND_CREATED, now)
    return refund_id


def retry_refund(connection: PgConnection, refund: Row, *, now: datetime) -> str:
    """Try a failed refund again, as a new one; its id. `refund` is as `load_refund` gives it, locked, and so is its
    invoice.

    Raises Conflict for one that has not failed or has been tried again, and where no payment has so much left.
    """
    if refund["status"] != "failed":
        raise Conflict("refund.not_failed", f"Refund {refund['id']} is {refund['status']}.")
    if connection.execute("SELECT FROM refunds WHERE retry_of = %s", (refund["id"],)).rowcount:
        raise Conflict("refund.already_retried", f"Refund {refund['id']} has been tried again.")
    payment = {"id": refund["payment_id"], "tenant_id": refund["tenant_id"], "test_clock_id": refund["test_clock_id"]}
    if refund["credit_note_id"] is not None:
        payment = _payment_for(connection, refund)
    return request_refund(
        connection,
        payment,
        amount_minor=refund["amount_minor"],
        credit_note_id=refund["credit_note_id"],
        retry_of=refund["id"],
        now=now,
    )


def _payment_for(connection: PgConnection, refund: Row) -> Row:
    """Its own payment, or else another of the invoice's, that has so much left: since it failed, other notes may have
    been paid back by what it did not take."""
    fitting = [
        row for row in _with_left(connection, refund["invoice_id"]) if row["left_minor"] >= refund["amount_minor"]
    ]
    if not fitting:
        raise Conflict(
            "refund.nothing_left",
            "Other notes have been paid back by its payment meanwhile, and no payment of the invoice has so much left:"
            " pay it back by hand.",
        )
    return next((row for row in fitting if row["id"] == refund["payment_id"]), fitting[0])


def _with_left(connection: PgConnection, invoice_id: str) -> list[Row]:
    """What was paid of an invoice through providers, the newest first: `left_minor` of it no note has been paid back
    by."""
    return connection.execute(
        "SELECT p.*, p.amount_minor - p.excess_minor - coalesce((SELECT sum(r.amount_minor) FROM refunds r"
        " WHERE r.payment_id = p.id AND r.credit_note_id IS NOT NULL AND r.status <> 'failed'), 0) AS left_minor"
        " FROM payments p WHERE p.invoice_id = %s AND p.status = 'succeeded' AND p.provider <> %s ORDER BY p.id DESC",
        (invoice_id, Provider.MANUAL),
    ).fetchall()


def refund_credit_note(
    connection: PgConnection, invoice: Row, *, credit_note_id: str, amount_minor: int, now: datetime
) -> None:
    """Pay a note's amount back by the payments of a locked invoice, the newest first. What is left of it then was paid
    by hand, and goes back by hand."""
    for payment in _with_left(connection, invoice["id"]):
        part = min(int(payment["left_minor"]), amount_minor)
        if part > 0:
            request_refund(connection, payment, amount_minor=part, credit_note_id=credit_note_id, now=now)
            amount_minor -= part


def load_refund(
    connection: PgConnection, refund_id: str, *, tenant_id: str | None = None, lock: bool = False
) -> Row | None:
    """A refund, of the tenant if one is named, with `invoice_id`, `currency`, `provider` and `payment_reference` of its
    payment."""
    return connection.execute(
        _REFUND_SQL
        + " WHERE r.id = %(id)s AND (%(tenant_id)s::text IS NULL OR r.tenant_id = %(tenant_id)s)"
        + (" FOR UPDATE OF r" if lock else ""),
        {"id": refund_id, "tenant_id": tenant_id},
    ).fetchone()


def list_refunds(
    connection: PgConnection,
    *,
    tenant_id: str,
    payment_id: str | None,
    credit_note_id: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's refunds, newest first."""
    return connection.execute(
        _REFUND_SQL + " WHERE r.tenant_id = %(tenant_id)s"
        " AND (%(payment_id)s::text IS NULL OR r.payment_id = %(payment_id)s)"
        " AND (%(credit_note_id)s::text IS NULL OR r.credit_note_id = %(credit_note_id)s)"
        " AND (%(before_id)s::text IS NULL OR r.id < %(before_id)s) ORDER BY r.id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "payment_id": payment_id,
            "credit_note_id": credit_note_id,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def note_refund(connection: PgConnection, refund_id: str, *, outcome: Outcome, now: datetime) -> bool:
    """Write what a provider says of a refund; whether it changed anything. One that succeeded can still fail later,
    when the customer's bank sends it back; a failed one stays so."""
    row = load_refund(connection, refund_id, lock=True)
    if row is None:
        return False
    is_news = {
        Result.SUCCEEDED: row["status"] == "pending",
        Result.FAILED: row["status"] != "failed",
        Result.PROCESSING: False,
        Result.UNKNOWN: False,
    }[outcome.result]
    if not is_news:
        if row["status"] == "pending":
            asked.put_off(
                connection,
                asked.REFUNDS,
                refund_id,
                reference=outcome.reference,
                attempts=row["attempts"],
                now=now,
            )
        return False
    connection.execute(
        "UPDATE refunds SET status = %s, reference = coalesce(%s, reference), failure_code = %s, ask_at = NULL,"
        " settled_at = %s WHERE id = %s",
        (outcome.result, outcome.reference, outcome.failure_code, now, refund_id),
    )
    event = SystemEvent.REFUND_SUCCEEDED if outcome.result is Result.SUCCEEDED else SystemEvent.REFUND_FAILED
    _tell(connection, refund_id, event, now)
    return True


def _tell(connection: PgConnection, refund_id: str, event: SystemEvent, now: datetime) -> None:
    row = load_refund(connection, refund_id)
    assert row is not None
    data = describe_refund(row)
    outbox.append(connection, tenant_id=row["tenant_id"], event=event, object_id=refund_id, data=data, now=now)


def describe_refund(row: Row) -> dict[str, Any]:
    """A refund as the API and events show it. `credit_note` null: of what was paid beyond what was due."""
    currency = row["currency"]
    return {
        "object": "refund",
        "id": row["id"],
        "payment": row["payment_id"],
        "invoice": row["invoice_id"],
        "credit_note": row["credit_note_id"],
        "retry_of": row["retry_of"],
        "currency": currency,
        "amount": format_amount(from_minor(row["amount_minor"], currency), currency),
        "reference": row["reference"],
        "status": row["status"],
        "failure_code": row["failure_code"],
        "created_at": row["created_at"],
        "settled_at": row["settled_at"],
    }
