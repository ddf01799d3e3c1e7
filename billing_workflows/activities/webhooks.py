"""The activity of delivering webhooks: opens doors, keeps the heartbeat and translates messages."""

from temporalio import activity

from billing_workflows.activities.beat import beating
from billing_workflows.deliveries import DeliveryDoors, deliver_chunk
from schemas.workflows import DELIVER_CHUNK, Delivered, DeliveryRequest


class WebhookActivities:
    """Activities over one set of doors. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, doors: DeliveryDoors) -> None:
        self._doors = doors

    @activity.defn(name=DELIVER_CHUNK)
    def deliver_chunk(self, request: DeliveryRequest) -> Delivered:
        with beating():
            return deliver_chunk(self._doors, request, stopping=_stopping)


def _stopping() -> bool:
    return activity.is_worker_shutdown() or activity.is_cancelled()
