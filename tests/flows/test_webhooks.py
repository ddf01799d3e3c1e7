"""Who is to be told of an event is noted once, however often the event comes."""

from typing import Any

import msgspec
import pytest

from billing_workflows.deliveries import record
from flows.webhooks import fan_out
from infra.kafka.inbox import InboxMessage
from infra.postgres.webhooks import deliveries, endpoints
from infra.webhooks.retries import DELAYS, DISABLE_AFTER
from infra.webhooks.send import Answer
from schemas.ids import Prefix, new_id
from schemas.topics import SystemEvent, SystemEventMessage
from tests.support.meters import make_tenant
from tests.support.usage_log import NOON, UsageLog

FAILED = Answer(status_code=500, error=None, body="", latency_ms=1)
DONE = Answer(status_code=200, error=None, body="", latency_ms=1)


@pytest.fixture
def tenant_id(log: UsageLog) -> str:
    return make_tenant(log.postgres)[0]


def make_endpoint(log: UsageLog, tenant_id: str, *events: str) -> str:
    row = endpoints.insert_endpoint(
        log.postgres,
        endpoint_id=new_id(Prefix.WEBHOOK_ENDPOINT),
        tenant_id=tenant_id,
        url="http://127.0.0.1:9/",
        description="",
        events=events,
        secret="whsec_c2VjcmV0",
        metadata={},
        now=NOON,
    )
    return row["id"]


def told(tenant_id: str, event: SystemEvent, offset: int = 0) -> InboxMessage:
    value = SystemEventMessage(
        id=new_id(Prefix.SYSTEM_EVENT),
        type=event,
        tenant_id=tenant_id,
        object_id="cus_1",
        data={"id": "cus_1"},
        created_at=NOON,
    )
    return InboxMessage(0, offset, 1_767_000_000_000, {}, msgspec.json.encode(value))


def log_of(log: UsageLog, endpoint_id: str) -> list[dict[str, Any]]:
    return deliveries.list_deliveries(log.postgres, endpoint_id=endpoint_id, status=None, before_id=None, limit=100)


def test_an_event_that_comes_again_is_delivered_once(log: UsageLog, tenant_id: str) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "customer.*")
    message = told(tenant_id, SystemEvent.CUSTOMER_CREATED)
    for batch in ([message, message], [message]):
        fan_out(log.postgres, batch, topic="system.events", now=NOON)
    [delivery] = log_of(log, endpoint_id)
    record(log.postgres, delivery["id"], DONE, attempted_at=NOON, now=NOON)
    fan_out(log.postgres, [message], topic="system.events", now=NOON)
    assert [(row["status"], row["attempts"]) for row in log_of(log, endpoint_id)] == [("succeeded", 1)]


def test_only_the_tenants_own_enabled_endpoints_made_before_are_told(log: UsageLog, tenant_id: str) -> None:
    stranger = make_endpoint(log, make_tenant(log.postgres)[0], "*")
    disabled = make_endpoint(log, tenant_id, "*")
    endpoints.disable(log.postgres, endpoint_id=disabled, reason="requested", now=NOON)
    message = told(tenant_id, SystemEvent.CUSTOMER_CREATED)
    later = make_endpoint(log, tenant_id, "*")
    fan_out(log.postgres, [message], topic="system.events", now=NOON)
    assert [log_of(log, endpoint_id) for endpoint_id in (stranger, disabled, later)] == [[], [], []]


def test_what_is_no_system_event_is_set_aside_and_the_others_are_told(log: UsageLog, tenant_id: str) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "*")
    topic = f"system.{tenant_id}"
    bad = InboxMessage(0, 7, 1_767_000_000_000, {}, b"\xff{")
    fan_out(log.postgres, [bad, told(tenant_id, SystemEvent.CUSTOMER_CREATED, 8)], topic=topic, now=NOON)
    assert len(log_of(log, endpoint_id)) == 1
    rows = log.postgres.execute("SELECT message_offset FROM poison_messages WHERE topic = %s", (topic,)).fetchall()
    assert [row["message_offset"] for row in rows] == [7]


def test_a_delivery_is_given_up_after_the_last_try_and_an_endpoint_after_days_of_failures(
    log: UsageLog, tenant_id: str
) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "*")
    fan_out(log.postgres, [told(tenant_id, SystemEvent.CUSTOMER_CREATED)], topic="system.events", now=NOON)
    [delivery] = log_of(log, endpoint_id)
    now = NOON
    for _ in range(len(DELAYS)):
        record(log.postgres, delivery["id"], FAILED, attempted_at=now, now=now)
        [row] = log_of(log, endpoint_id)
        assert row["status"] == "pending"
        now = row["next_attempt_at"]
    record(log.postgres, delivery["id"], FAILED, attempted_at=now, now=now)
    [row] = log_of(log, endpoint_id)
    assert (row["status"], row["attempts"]) == ("failed", len(DELAYS) + 1)
    assert disabled_reason(log, tenant_id, endpoint_id) is None
    record(log.postgres, delivery["id"], FAILED, attempted_at=now, now=NOON + DISABLE_AFTER)
    assert disabled_reason(log, tenant_id, endpoint_id) == "failing"
    rows = log.postgres.execute("SELECT object_id FROM outbox WHERE type = 'webhook_endpoint.disabled'").fetchall()
    assert [row["object_id"] for row in rows] == [endpoint_id]
    log.postgres.execute("DELETE FROM outbox")


def disabled_reason(log: UsageLog, tenant_id: str, endpoint_id: str) -> str | None:
    row = endpoints.load_endpoint(log.postgres, tenant_id=tenant_id, endpoint_id=endpoint_id)
    assert row is not None
    return row["disabled_reason"]


def test_old_messages_go_with_their_deliveries(log: UsageLog, tenant_id: str) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "*")
    fan_out(log.postgres, [told(tenant_id, SystemEvent.CUSTOMER_CREATED)], topic="system.events", now=NOON)
    deliveries.delete_old(log.postgres, before=NOON, limit=1000)
    assert len(log_of(log, endpoint_id)) == 1
    deliveries.delete_old(log.postgres, before=NOON + DISABLE_AFTER, limit=1000)
    assert log_of(log, endpoint_id) == []
