"""Who is to be told of an event is noted once, however often the event comes."""

from datetime import datetime
from typing import Any

import msgspec
import pytest

from billing_workflows.deliveries import Sent, record
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


def note(log: UsageLog, endpoint_id: str, delivery_id: str, answer: Answer, *, now: datetime) -> None:
    sent = Sent(delivery_id=delivery_id, attempted_at=now, answer=answer)
    record(log.postgres, endpoint_id, [sent], now=now)


def test_an_event_that_comes_again_is_delivered_once(log: UsageLog, tenant_id: str) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "customer.*")
    message = told(tenant_id, SystemEvent.CUSTOMER_CREATED)
    for batch in ([message, message], [message]):
        fan_out(log.postgres, batch, topic="system.events", now=NOON)
    [delivery] = log_of(log, endpoint_id)
    note(log, endpoint_id, delivery["id"], DONE, now=NOON)
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
        note(log, endpoint_id, delivery["id"], FAILED, now=now)
        [row] = log_of(log, endpoint_id)
        assert row["status"] == "pending"
        now = row["next_attempt_at"]
    note(log, endpoint_id, delivery["id"], FAILED, now=now)
    [row] = log_of(log, endpoint_id)
    assert (row["status"], row["attempts"]) == ("failed", len(DELAYS) + 1)
    assert disabled_reason(log, tenant_id, endpoint_id) is None
    note(log, endpoint_id, delivery["id"], FAILED, now=NOON + DISABLE_AFTER)
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


def test_attempts_written_down_together_are_each_their_own_and_one_success_ends_the_failing(
    log: UsageLog, tenant_id: str
) -> None:
    endpoint_id = make_endpoint(log, tenant_id, "*")
    messages = [told(tenant_id, SystemEvent.CUSTOMER_CREATED, offset) for offset in range(3)]
    fan_out(log.postgres, messages, topic="system.events", now=NOON)
    first, second, third = (row["id"] for row in log_of(log, endpoint_id))
    note(log, endpoint_id, first, FAILED, now=NOON)
    later = NOON + DISABLE_AFTER
    sent = [
        Sent(delivery_id=each, attempted_at=later, answer=answer) for each, answer in ((second, DONE), (third, FAILED))
    ]
    record(log.postgres, endpoint_id, sent, now=later)
    rows = {row["id"]: (row["status"], row["attempts"], row["tries"]) for row in log_of(log, endpoint_id)}
    assert rows == {first: ("pending", 1, 1), second: ("succeeded", 1, 1), third: ("pending", 1, 1)}
    assert disabled_reason(log, tenant_id, endpoint_id) is None, "one answered well within these days"


def test_endpoints_that_do_not_fail_are_found_before_those_that_do(log: UsageLog, tenant_id: str) -> None:
    failing = [make_endpoint(log, tenant_id, "*") for _ in range(3)]
    fan_out(log.postgres, [told(tenant_id, SystemEvent.CUSTOMER_CREATED)], topic="system.events", now=NOON)
    for endpoint_id in failing:
        endpoints.note_result(log.postgres, endpoint_id=endpoint_id, failing_since=NOON)
    good = make_endpoint(log, tenant_id, "*")
    fan_out(log.postgres, [told(tenant_id, SystemEvent.CUSTOMER_CREATED)], topic="system.events", now=NOON)
    found = {each.id: each.is_failing for each in endpoints.find_due(log.postgres, now=NOON, limit=1_000)}
    assert {each: found[each] for each in (*failing, good)} == {**dict.fromkeys(failing, True), good: False}
    order = list(found)
    assert all(order.index(good) < order.index(each) for each in failing)
