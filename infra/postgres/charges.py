"""What becomes of payments that a provider collects: noted under the invoice's lock, once, in whatever order.

`succeeded` is for good. `failed` is not: an intent that was declined can still be paid by the customer at the provider,
and then the money is here. What comes in and is no longer due is sent back.
"""

from datetime import datetime
from typing import Any

from infra.payments.providers import Outcome, Result
from infra.postgres import asked, outbox
from infra.postgres.invoice_lifecycle import lock_invoice, reduce_due
from infra.postgres.payments import describe, load_payment
from infra.postgres.pool import PgConnection, Row
from infra.postgres.refunds import request_refund
from schemas.topics import SystemEvent


def note_outcome(connection: PgConnection, *, tenant_id: str, payment_id: str, outcome: Outcome, now: datetime) -> bool:
    """Write what a provider says of a payment; whether it changed anything. `now` is the customer's.

    Locks the invoice, then the payment. Saying the same again, or something older, changes nothing.
    """
    named = load_payment(connection, tenant_id=tenant_id, payment_id=payment_id)
    if named is None:
        return False
    invoice = lock_invoice(connection, tenant_id=tenant_id, id_or_number=named["invoice_id"])
    payment = connection.execute("SELECT * FROM payments WHERE id = %s FOR UPDATE", (payment_id,)).fetchone()
    assert payment is not None
    if outcome.result is Result.SUCCEEDED and payment["status"] != "succeeded":
        _succeed(connection, invoice, payment, outcome, now)
    elif outcome.result is Result.FAILED and payment["status"] == "pending":
        _fail(connection, payment, outcome, now)
    elif payment["status"] == "pending":
        asked.put_off(
            connection,
            asked.PAYMENTS,
            payment_id,
            reference=outcome.reference,
            attempts=payment["attempts"],
            now=now,
        )
        return False
    else:
        return False
    return True


def _succeed(connection: PgConnection, invoice: Row, payment: Row, outcome: Outcome, now: datetime) -> None:
    remaining = invoice["amount_due_minor"] - invoice["amount_paid_minor"]
    open_minor = remaining if invoice["status"] in ("open", "uncollectible") else 0
    taken = min(payment["amount_minor"], open_minor)
    excess = payment["amount_minor"] - taken
    connection.execute(
        "UPDATE payments SET status = 'succeeded', succeeded_at = %s, reference = coalesce(%s, reference),"
        " ask_at = NULL, failure_code = NULL, decline_code = NULL, failed_at = NULL, excess_minor = %s WHERE id = %s",
        (now, outcome.reference, excess, payment["id"]),
    )
    if taken:
        reduce_due(connection, invoice, paid_minor=taken, now=now)
    if excess:
        request_refund(connection, payment, amount_minor=excess, credit_note_id=None, now=now)
    _tell(connection, payment, SystemEvent.PAYMENT_SUCCEEDED, now)


def _fail(connection: PgConnection, payment: Row, outcome: Outcome, now: datetime) -> None:
    connection.execute(
        "UPDATE payments SET status = 'failed', failed_at = %s, reference = coalesce(%s, reference), ask_at = NULL,"
        " failure_code = %s, decline_code = %s WHERE id = %s",
        (now, outcome.reference, outcome.failure_code, outcome.decline_code, payment["id"]),
    )
    _tell(connection, payment, SystemEvent.PAYMENT_FAILED, now)


def _tell(connection: PgConnection, payment: Row, event: SystemEvent, now: datetime) -> None:
    row = load_payment(connection, tenant_id=payment["tenant_id"], payment_id=payment["id"])
    assert row is not None
    data: dict[str, Any] = describe(row)
    outbox.append(connection, tenant_id=payment["tenant_id"], event=event, object_id=payment["id"], data=data, now=now)
