"""Letting a parked subscription back into billing. What parks one, and why, is the workers' (`billing_workflows`)."""

from starlette.responses import Response

from infra.postgres.billing import unpark
from infra.postgres.pool import PgConnection
from infra.postgres.subscriptions import lock_subscription
from ingestion_api.control.subscription_view import SubscriptionView, find, tell, to_view
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.routing import house_router
from schemas.errors import Conflict, NotFound
from schemas.topics import SystemEvent

router = house_router("subscriptions")


@router.post(
    "/v1/subscriptions/{subscription}/unpark", response_model=SubscriptionView, operation_id="unpark_subscription"
)
def unpark_subscription(subscription: str, call: AdminCall) -> Response:
    """Let billing take a subscription up again, once the cause in its `parked_reason` is gone. The next sweep bills all
    that has become due meanwhile; if the cause is still there, it parks the subscription again."""
    return call.perform(lambda connection: _unpark(connection, subscription, call), status=200)


def _unpark(connection: PgConnection, subscription_id: str, call: Call) -> SubscriptionView:
    if not lock_subscription(connection, tenant_id=call.tenant_id, subscription_id=subscription_id):
        raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
    if not unpark(connection, subscription_id=subscription_id):
        raise Conflict("subscription.not_parked", "The subscription is not parked: billing does not pass it by.")
    view = to_view(find(connection, call.tenant_id, subscription_id, call.now))
    tell(connection, call.principal, SystemEvent.SUBSCRIPTION_UPDATED, view, call.now)
    return view
