"""Invoices of a small world that Stripe's double collects."""

from infra.postgres.customers import set_payment_method
from infra.postgres.payment_providers import save_provider
from infra.postgres.pool import Row
from schemas.billing import BilledSubscription
from schemas.ids import Prefix, new_id
from tests.support.billing import ADVANCE, World, instant
from tests.support.stripe_double import StripeDouble

DAY = "2026-01-01"
ACCOUNT = {"secret_key": "sk_test_of_the_tests", "webhook_secret": "whsec_of_the_tests"}


def connect(world: World, stripe: StripeDouble) -> str:
    """Connect the tenant's account; the name by which its events come."""
    with world.doors.database.transaction() as connection:
        row = save_provider(
            connection,
            provider_id=new_id(Prefix.PAYMENT_PROVIDER),
            tenant_id=world.tenant_id,
            provider="stripe",
            api_base=stripe.url,
            now=instant(DAY),
            **ACCOUNT,
        )
    return row["id"]


def pay_by(world: World, subscription: BilledSubscription, method: str) -> None:
    """What the double does with it stands there."""
    with world.doors.database.transaction() as connection:
        set_payment_method(
            connection,
            customer_id=subscription.customer_id,
            method={"provider": "stripe", "customer": "cus_1", "payment_method": method},
        )


def issue(world: World, stripe: StripeDouble, method: str = "pm_card_visa") -> tuple[BilledSubscription, Row]:
    """A subscription, and the pending payment of its invoice over 49.00 that was just finalized."""
    subscription = world.subscribe(ADVANCE, start_at=DAY)
    connect(world, stripe)
    pay_by(world, subscription, method)
    world.bill(subscription, now=DAY)
    payment = payments(world)[-1]
    assert (payment["status"], payment["amount_minor"]) == ("pending", 4900)
    return subscription, payment


def payments(world: World) -> list[Row]:
    """The tenant's payments, oldest first."""
    return list(world.rows("SELECT * FROM payments WHERE tenant_id = %(t)s ORDER BY id", t=world.tenant_id))


def told(world: World, *types: str) -> list[str]:
    """What was told of these types, oldest first."""
    rows = world.rows(
        "SELECT type FROM outbox WHERE tenant_id = %(t)s AND type = ANY(%(types)s) ORDER BY no",
        t=world.tenant_id,
        types=list(types),
    )
    return [row["type"] for row in rows]
