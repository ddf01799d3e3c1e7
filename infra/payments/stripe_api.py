"""Stripe, by its own library: charges and refunds under idempotency keys, and what it tells by signed events.

The library's own retries are off: what is to be asked again stays due in the store, and survives a crash there.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import stripe

from infra.payments.amounts import to_stripe
from infra.payments.providers import Account, Outcome, Result
from infra.postgres.pool import Row

SIGNATURE_TOLERANCE_SECONDS = 300
PAYMENT_KEY = "meterline_payment"  # in the metadata of what we make there
REFUND_KEY = "meterline_refund"
PAGE_SIZE = 100
MAX_LISTED = 1_000  # objects of one customer or payment that are looked at to find ours

NEVER_ASKED = Outcome(result=Result.FAILED, failure_code="provider_unavailable")  # looked for, and not there
NOT_CHARGEABLE = Outcome(result=Result.FAILED, failure_code="amount_not_chargeable")

MISSING = "resource_missing"  # what an error is called when the account does not have what was asked for
GONE = Outcome(result=Result.FAILED, failure_code=MISSING)  # made, and no longer there: e.g. in another account

_FAILED_REFUNDS = ("failed", "canceled")


def _client(account: Account) -> stripe.StripeClient:
    return stripe.StripeClient(
        account.secret_key,
        base_addresses={"api": account.api_base} if account.api_base else {},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=account.answer_seconds),
    )


def charge(account: Account, payment: Row, *, may_create: bool) -> Outcome:
    """Charge a payment once, or find out what became of it; never raises for what Stripe says.

    `payment`: `id`, `invoice_id`, `amount_minor`, `currency`, `method`, `reference`, `attempts` (this one counts),
    `asked_at`. An earlier attempt whose outcome is not known is looked for first. `may_create` False: its key may be
    forgotten by now, so what is not found has never been.
    """
    client = _client(account)
    found: dict[str, Any] | None = None
    try:
        if payment["reference"] is not None:
            found = client.v1.payment_intents.retrieve(payment["reference"]).to_dict()
        elif payment["attempts"] > 1:
            found = _find_intent(client, payment)
    except stripe.StripeError as error:
        if not _is_missing(error):  # a look that failed says nothing of the charge
            return Outcome(result=Result.UNKNOWN)
        if payment["reference"] is not None:
            return GONE
    if found is not None:
        return intent_outcome(found)
    if not may_create:
        return NEVER_ASKED
    try:
        return _create_intent(client, payment)
    except stripe.StripeError as error:
        return _error_outcome(error, attempts=payment["attempts"])


def _create_intent(client: stripe.StripeClient, payment: Row) -> Outcome:
    try:
        amount = to_stripe(payment["amount_minor"], payment["currency"])
    except ValueError:
        return NOT_CHARGEABLE
    intent = client.v1.payment_intents.create(
        {
            "amount": amount,
            "currency": payment["currency"].lower(),
            "customer": payment["method"]["customer"],
            "payment_method": payment["method"]["payment_method"],
            "confirm": True,
            "off_session": True,
            "metadata": {PAYMENT_KEY: payment["id"], "meterline_invoice": payment["invoice_id"]},
        },
        {"idempotency_key": payment["id"]},
    )
    return intent_outcome(intent.to_dict())


def _find_intent(client: stripe.StripeClient, payment: Row) -> dict[str, Any] | None:
    """The intent that an earlier attempt has made. Lists are up to date with what was created, unlike searches."""
    page = client.v1.payment_intents.list({"customer": payment["method"]["customer"], "limit": PAGE_SIZE})
    return _find(page, PAYMENT_KEY, payment["id"], since=payment["asked_at"])


def _find(page: Any, key: str, name: str, *, since: datetime) -> dict[str, Any] | None:
    """Newest first, up to those of the day before we asked. Raises APIError when there are more than MAX_LISTED."""
    oldest = int(since.timestamp()) - 86_400  # their clock and ours
    for count, item in enumerate(page.auto_paging_iter(), start=1):
        found: dict[str, Any] = item.to_dict()
        if (found.get("metadata") or {}).get(key) == name:
            return found
        if found["created"] < oldest:
            return None
        if count >= MAX_LISTED:
            raise stripe.APIError(f"more than {MAX_LISTED} objects to look through")
    return None


def _is_missing(error: stripe.StripeError) -> bool:
    """Whether there is no such intent or refund, or no customer or payment that it could be of."""
    return isinstance(error, stripe.InvalidRequestError) and error.code == MISSING


def intent_outcome(intent: Mapping[str, Any]) -> Outcome:
    """What a PaymentIntent says of the payment that it was made for."""
    status, reference = intent["status"], intent["id"]
    if status == "succeeded":
        return Outcome(result=Result.SUCCEEDED, reference=reference)
    if status in ("requires_payment_method", "requires_action", "canceled", "requires_capture"):
        error = intent.get("last_payment_error") or {}
        default = "authentication_required" if status == "requires_action" else status
        return Outcome(
            result=Result.FAILED,
            reference=reference,
            failure_code=error.get("code") or default,
            decline_code=error.get("decline_code"),
        )
    return Outcome(result=Result.PROCESSING, reference=reference)


def _error_outcome(error: stripe.StripeError, *, attempts: int) -> Outcome:
    """Only what says that nothing was charged is a failure: a declined card, or a request that Stripe refuses. A key
    that opens nothing says so of the first attempt alone; an earlier one may have charged."""
    body: Any = error.error.to_dict() if error.error is not None else {}
    if isinstance(error, stripe.CardError):
        intent = body.get("payment_intent") or {}
        return Outcome(
            result=Result.FAILED,
            reference=intent.get("id"),
            failure_code=error.code or "card_declined",
            decline_code=body.get("decline_code"),
        )
    if isinstance(error, stripe.InvalidRequestError):
        return Outcome(result=Result.FAILED, failure_code=error.code or "invalid_request")
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError) and attempts == 1:
        return Outcome(result=Result.FAILED, failure_code="provider_refused_key")
    return Outcome(result=Result.UNKNOWN)


def refund(account: Account, row: Row, *, may_create: bool) -> Outcome:
    """Pay a part of a payment back once, or find out what became of it; as `charge`.

    `row`: `id`, `amount_minor`, `currency`, `reference`, `payment_reference` (the intent), `attempts`, `asked_at`.
    """
    client = _client(account)
    found: dict[str, Any] | None = None
    try:
        if row["reference"] is not None:
            found = client.v1.refunds.retrieve(row["reference"]).to_dict()
        elif row["attempts"] > 1:
            page = client.v1.refunds.list({"payment_intent": row["payment_reference"], "limit": PAGE_SIZE})
            found = _find(page, REFUND_KEY, row["id"], since=row["asked_at"])
    except stripe.StripeError as error:
        if not _is_missing(error):
            return Outcome(result=Result.UNKNOWN)
        if row["reference"] is not None:
            return GONE
    if found is not None:
        return refund_outcome(found)
    if not may_create:
        return NEVER_ASKED
    try:
        amount = to_stripe(row["amount_minor"], row["currency"])
        made = client.v1.refunds.create(
            {"payment_intent": row["payment_reference"], "amount": amount, "metadata": {REFUND_KEY: row["id"]}},
            {"idempotency_key": row["id"]},
        )
        return refund_outcome(made.to_dict())
    except ValueError:
        return NOT_CHARGEABLE
    except stripe.StripeError as error:
        return _error_outcome(error, attempts=row["attempts"])


def refund_outcome(made: Mapping[str, Any]) -> Outcome:
    """What a Refund says of itself."""
    if made["status"] == "succeeded":
        return Outcome(result=Result.SUCCEEDED, reference=made["id"])
    if made["status"] in _FAILED_REFUNDS:
        code = made.get("failure_reason") or made["status"]
        return Outcome(result=Result.FAILED, reference=made["id"], failure_code=code)
    return Outcome(result=Result.PROCESSING, reference=made["id"])


def is_signed(body: bytes, header: str | None, secret: str) -> bool:
    """Whether Stripe signed these very bytes with the secret, within the tolerance."""
    try:
        stripe.WebhookSignature.verify_header(body, header, secret, SIGNATURE_TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, ValueError):  # the latter: bytes that are no UTF-8
        return False
    return True
