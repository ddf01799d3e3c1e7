"""Endpoints of webhooks with deliveries that are due, as rows."""

from datetime import UTC, datetime

from infra.postgres.webhooks import deliveries, endpoints
from infra.postgres.webhooks.deliveries import Message, NewDelivery
from schemas.ids import Prefix, new_id
from tests.support.billing import World


def make_due(world: World, url: str, count: int) -> str:
    """An endpoint to which `count` deliveries are due; its id."""
    endpoint_id, now = new_id(Prefix.WEBHOOK_ENDPOINT), datetime.now(UTC)
    messages = [Message(new_id(Prefix.SYSTEM_EVENT), world.tenant_id, "customer.created", "{}") for _ in range(count)]
    with world.doors.database.transaction() as connection:
        endpoints.insert_endpoint(
            connection,
            endpoint_id=endpoint_id,
            tenant_id=world.tenant_id,
            url=url,
            description="",
            events=["customer.*"],
            secret="whsec_c2VjcmV0",
            metadata={},
            now=now,
        )
        new = [
            NewDelivery(new_id(Prefix.WEBHOOK_DELIVERY), world.tenant_id, endpoint_id, message.id)
            for message in messages
        ]
        deliveries.insert(connection, messages=messages, deliveries=new, now=now)
    return endpoint_id
