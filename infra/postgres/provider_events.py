"""Signed events of Stripe, noted on what of ours they name. Each says how its object was, so that any order ends alike:
a success is for good, a failure of something pending counts, and all else changes nothing."""

from datetime import datetime
from typing import Any

from infra.payments.amounts import to_stripe
from infra.payments.providers import Provider
from infra.payments.stripe_api import PAYMENT_KEY, REFUND_KEY, intent_outcome, refund_outcome
from infra.postgres import outbox
from infra.postgres.charges import note_outcome
from infra.postgres.pool import PgConnection, Row
from infra.postgres.refunds import note_refund
from infra.postgres.test_clocks import hold_clock
from schemas.topics import SystemEvent

_INTENTS = ("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.processing")
_REFUNDS = ("refund.created", "refund.updated", "refund.failed", "charge.refund.updated")


def note_event(connection: PgConnection, tenant_id: str, event: dict[str, Any], *, now: datetime) -> None:
    """Note a verified event of the tenant's account. What names nothing of ours is passed by."""
    kind, made = event.get("type"), _object_of(event)
    if made is None or not isinstance(made.get("id"), str):
        return
    metadata = made.get("metadata")
    names: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    if kind in _INTENTS and isinstance(made.get("status"), str):
        payment = _find_payment(connection, tenant_id, names.get(PAYMENT_KEY), made)
        if payment is not None:
            outcome = intent_outcome(made)
            at = _now_of(connection, payment, now)
            note_outcome(connection, tenant_id=tenant_id, payment_id=payment["id"], outcome=outcome, now=at)
    elif kind in _REFUNDS and isinstance(made.get("status"), str):
        _note_refund(connection, tenant_id, kind, names.get(REFUND_KEY), made, now)
    elif kind == "charge.dispute.created":
        _tell_once(connection, tenant_id, SystemEvent.PAYMENT_DISPUTED, made, {"dispute": made["id"]}, now)


def _object_of(event: dict[str, Any]) -> dict[str, Any] | None:
    data = event.get("data")
    made = data.get("object") if isinstance(data, dict) else None
    return made if isinstance(made, dict) else None


def _find_payment(connection: PgConnection, tenant_id: str, name: object, intent: dict[str, Any]) -> Row | None:
    """The tenant's payment that the intent was made for, and of its amount: anybody at the account can write names."""
    if not isinstance(name, str):
        return None
    row = connection.execute(
        "SELECT * FROM payments WHERE tenant_id = %s AND id = %s AND provider = %s", (tenant_id, name, Provider.STRIPE)
    ).fetchone()
    if row is None or row["reference"] not in (None, intent["id"]):
        return None
    try:
        amount = to_stripe(row["amount_minor"], row["currency"])
    except ValueError:  # never charged, so no intent is its
        return None
    is_same = intent.get("amount") == amount and intent.get("currency") == row["currency"].lower()
    return row if is_same else None


def _note_refund(
    connection: PgConnection, tenant_id: str, kind: object, name: object, made: dict[str, Any], now: datetime
) -> None:
    """Note what became of a refund of ours. One that was made at the provider is told of: what it means for the
    invoice only the tenant knows."""
    if not isinstance(name, str):
        if kind == "refund.created":
            _tell_once(connection, tenant_id, SystemEvent.PAYMENT_REFUNDED, made, {"refund": made["id"]}, now)
        return
    outcome = refund_outcome(made)
    row = connection.execute("SELECT * FROM refunds WHERE tenant_id = %s AND id = %s", (tenant_id, name)).fetchone()
    if row is not None and row["reference"] in (None, outcome.reference):
        note_refund(connection, name, outcome=outcome, now=_now_of(connection, row, now))


def _tell_once(
    connection: PgConnection,
    tenant_id: str,
    event: SystemEvent,
    made: dict[str, Any],
    more: dict[str, Any],
    now: datetime,
) -> None:
    """Tell of something that the provider has about a payment of the tenant, however often the provider tells it."""
    reference, amount, currency = made.get("payment_intent"), made.get("amount"), made.get("currency")
    if not isinstance(reference, str):
        return
    row = connection.execute(
        "SELECT * FROM payments WHERE tenant_id = %s AND provider = %s AND reference = %s",
        (tenant_id, Provider.STRIPE, reference),
    ).fetchone()
    if row is None:
        return
    at = _now_of(connection, row, now)
    told = connection.execute(
        "INSERT INTO payment_notices (payment_id, reference, told_at) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (row["id"], made["id"], at),
    )
    if told.rowcount:
        data = {
            "id": row["id"],
            "invoice": row["invoice_id"],
            **more,
            "reason": made.get("reason"),
            "provider_amount": amount,  # as the provider counts it
            "provider_currency": currency,
        }
        outbox.append(connection, tenant_id=tenant_id, event=event, object_id=row["id"], data=data, now=at)


def _now_of(connection: PgConnection, row: Row, now: datetime) -> datetime:
    return now if row["test_clock_id"] is None else hold_clock(connection, row["test_clock_id"])
