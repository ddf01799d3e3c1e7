"""Names that processes share without importing each other: topics, their settings, system events."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class SystemEvent(StrEnum):
    """Types on the topic of system events; a change of state writes one in its own transaction."""

    CUSTOMER_CREATED = "customer.created"
    CUSTOMER_UPDATED = "customer.updated"
    CUSTOMER_ARCHIVED = "customer.archived"
    METER_CREATED = "meter.created"
    METER_UPDATED = "meter.updated"
    METER_REBUILT = "meter.rebuilt"
    METER_DRIFTED = "meter.drifted"
    METER_ARCHIVED = "meter.archived"
    FEATURE_CREATED = "feature.created"
    FEATURE_UPDATED = "feature.updated"
    ENTITLEMENT_CREATED = "entitlement.created"
    ENTITLEMENT_DELETED = "entitlement.deleted"
    PLAN_CREATED = "plan.created"
    PLAN_VERSION_CREATED = "plan.version_created"
    ADDON_CREATED = "addon.created"
    ADDON_VERSION_CREATED = "addon.version_created"
    COUPON_CREATED = "coupon.created"
    COUPON_UPDATED = "coupon.updated"
    SUBSCRIPTION_CREATED = "subscription.created"
    SUBSCRIPTION_UPDATED = "subscription.updated"
    SUBSCRIPTION_CANCELED = "subscription.canceled"
    SUBSCRIPTION_ENDED = "subscription.ended"
    SUBSCRIPTION_PARKED = "subscription.parked"
    SUBSCRIPTION_PAST_DUE = "subscription.past_due"
    SUBSCRIPTION_RECOVERED = "subscription.recovered"
    INVOICE_CREATED = "invoice.created"
    INVOICE_UPDATED = "invoice.updated"
    INVOICE_DELETED = "invoice.deleted"
    INVOICE_FINALIZED = "invoice.finalized"
    INVOICE_PAID = "invoice.paid"
    INVOICE_VOIDED = "invoice.voided"
    INVOICE_MARKED_UNCOLLECTIBLE = "invoice.marked_uncollectible"
    INVOICE_OVERDUE = "invoice.overdue"
    INVOICE_PAYMENT_REMINDER = "invoice.payment_reminder"
    PAYMENT_SUCCEEDED = "payment.succeeded"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_DISPUTED = "payment.disputed"
    PAYMENT_REFUNDED = "payment.refunded"
    PAYMENT_PROVIDER_CONNECTED = "payment_provider.connected"
    PAYMENT_PROVIDER_REMOVED = "payment_provider.removed"
    REFUND_CREATED = "refund.created"
    REFUND_SUCCEEDED = "refund.succeeded"
    REFUND_FAILED = "refund.failed"
    CREDIT_NOTE_CREATED = "credit_note.created"
    TAX_RATE_CREATED = "tax_rate.created"
    TAX_RATE_UPDATED = "tax_rate.updated"
    WALLET_CREATED = "wallet.created"
    WALLET_UPDATED = "wallet.updated"
    WALLET_GRANT_CREATED = "wallet.grant_created"
    WALLET_GRANT_VOIDED = "wallet.grant_voided"
    WALLET_TRANSACTION_CREATED = "wallet.transaction_created"
    WALLET_TOP_UP_CREATED = "wallet.top_up_created"
    WALLET_BALANCE_LOW = "wallet.balance_low"
    SETTINGS_UPDATED = "settings.updated"
    TEST_CLOCK_CREATED = "test_clock.created"
    TEST_CLOCK_ADVANCING = "test_clock.advancing"
    TEST_CLOCK_READY = "test_clock.ready"
    INVARIANT_BROKEN = "invariant.broken"
    EVENT_QUARANTINED = "event.quarantined"
    ALERT_CREATED = "alert.created"
    ALERT_DELETED = "alert.deleted"
    ALERT_TRIGGERED = "alert.triggered"
    WEBHOOK_ENDPOINT_CREATED = "webhook_endpoint.created"
    WEBHOOK_ENDPOINT_UPDATED = "webhook_endpoint.updated"
    WEBHOOK_ENDPOINT_DELETED = "webhook_endpoint.deleted"
    WEBHOOK_ENDPOINT_DISABLED = "webhook_endpoint.disabled"
    WEBHOOK_ENDPOINT_TEST = "webhook_endpoint.test"  # to one endpoint alone, when asked for


class SystemEventMessage(msgspec.Struct, frozen=True):
    """The JSON value on the topic of system events; its key is `object_id`. The same `id` may come more than once."""

    id: str
    type: str
    tenant_id: str
    object_id: str
    data: dict[str, Any]
    created_at: datetime


#: `log.message.timestamp.type` of the events topic: the broker's clock, never the sender's. A sender's time far
#: ahead would make a stock broker refuse the whole batch with its good neighbours.
EVENTS_TOPIC_CONFIG = {
    "message.timestamp.type": "LogAppendTime",
    "compression.type": "uncompressed",
    "max.message.bytes": str(4 * 1024 * 1024),
}

#: The inbox takes whatever producers compress with. An event without a time takes that of its message, and must take
#: the same when the message is read again: so the clock is the broker's here too.
INBOX_TOPIC_CONFIG = {
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(256 * 1024),
}
