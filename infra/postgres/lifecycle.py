"""Changes of a subscription beside its phases: activation, what is taken back, metadata. The caller has it locked."""

from datetime import datetime
from decimal import Decimal

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from schemas.billing import BilledSubscription


def drop_scheduled_phases(
    connection: PgConnection, subscription: BilledSubscription, *, bill_at: datetime | None, usage_due: bool
) -> None:
    """Forget the phases that the subscription does not have any more; all that it has are stored."""
    connection.execute(
        "DELETE FROM subscription_phases WHERE subscription_id = %s AND no <> ALL(%s)",
        (subscription.id, [phase.no for phase in subscription.phases]),
    )
    _set_next_bill(connection, subscription.id, bill_at=bill_at, usage_due=usage_due)


def withdraw_cancellation(
    connection: PgConnection, *, subscription_id: str, bill_at: datetime | None, usage_due: bool
) -> None:
    """Let it go on: it is not to be canceled any more."""
    connection.execute(
        "UPDATE subscriptions SET cancel_at = NULL, cancel_proration = false WHERE id = %s", (subscription_id,)
    )
    _set_next_bill(connection, subscription_id, bill_at=bill_at, usage_due=usage_due)


def activate(
    connection: PgConnection, subscription: BilledSubscription, *, bill_at: datetime | None, usage_due: bool
) -> None:
    """Let a draft begin: write its start, anchor, trial and status, and the start of its first phase. Phases that were
    to start before are gone."""
    connection.execute(
        "UPDATE subscriptions SET status = %s, start_at = %s, billing_anchor = %s, trial_end_at = %s WHERE id = %s",
        (
            subscription.status,
            subscription.start_at,
            subscription.billing_anchor,
            subscription.trial_end_at,
            subscription.id,
        ),
    )
    first = subscription.phases[0]
    connection.execute(
        "UPDATE subscription_phases SET starts_at = %s WHERE subscription_id = %s AND no = %s",
        (first.starts_at, subscription.id, first.no),
    )
    drop_scheduled_phases(connection, subscription, bill_at=bill_at, usage_due=usage_due)


def update_metadata(connection: PgConnection, *, subscription_id: str, metadata: dict[str, str]) -> None:
    """Write the whole metadata."""
    connection.execute("UPDATE subscriptions SET metadata = %s WHERE id = %s", (jsonb(metadata), subscription_id))


def update_threshold(connection: PgConnection, *, subscription_id: str, threshold: Decimal | None) -> None:
    """Write the amount of usage that makes an invoice; None: none does. It is looked at with the next sweep."""
    connection.execute("UPDATE subscriptions SET invoice_threshold = %s WHERE id = %s", (threshold, subscription_id))


def _set_next_bill(
    connection: PgConnection, subscription_id: str, *, bill_at: datetime | None, usage_due: bool
) -> None:
    connection.execute(
        "UPDATE subscriptions SET next_bill_at = %s, usage_due = %s WHERE id = %s",
        (bill_at, usage_due, subscription_id),
    )
