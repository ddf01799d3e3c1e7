"""Events that others put on the inbox topic count as if they had been sent over HTTP; what is none is set aside."""

import json
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Producer

from infra.kafka.topics import ensure_topics
from infra.postgres.tenants import ROOT_TENANT_ID, insert_tenant
from infra.settings import Settings
from schemas.events import MAX_EVENT_BYTES
from tests.support.stack import fresh_databases
from tests.support.usage_log import WAIT_SECONDS, UsageLog, meter, wait_for

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
Message = tuple[bytes, dict[str, bytes]]


@pytest.fixture(scope="module")
def log(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsageLog]:
    settings = fresh_databases(stack)
    settings = settings.model_copy(update={"inbox_topic": f"{settings.events_topic}.inbox"})
    usage_log = UsageLog(settings, tmp_path_factory.mktemp("inbox"))
    for tenant_id in (ROOT_TENANT_ID, "ten_other"):
        insert_tenant(usage_log.postgres, tenant_id=tenant_id, name=tenant_id, now=NOW)
    for tenant_no in (1, 2):
        usage_log.customers({"acme": tenant_no}, tenant_no=tenant_no)
        usage_log.meters(meter(tenant_no), tenant_no=tenant_no)
    yield usage_log
    usage_log.close()


def put(log: UsageLog, messages: Sequence[Message]) -> None:
    """Put messages on the inbox, and wait for the broker."""
    producer = Producer({"bootstrap.servers": log.settings.kafka_bootstrap, "compression.type": "gzip"})
    for value, headers in messages:
        producer.produce(log.settings.inbox_topic, value, headers=list(headers.items()))
    assert producer.flush(WAIT_SECONDS) == 0


def event(event_id: str, **fields: Any) -> bytes:
    given = {"specversion": "1.0", "id": event_id, "source": "api", "type": "llm.request", "subject": "acme"}
    return json.dumps(given | {"time": "2026-03-10T12:00:00Z", "data": {"tokens": 5}} | fields).encode()


BINARY = {
    "ce_specversion": b"1.0", "ce_id": b"binary", "ce_source": b"api", "ce_type": b"llm.request",
    "ce_subject": b"acme", "ce_time": b"2026-03-10T12:00:00Z", "content-type": b"application/json",
}  # fmt: skip


def test_events_of_the_inbox_are_counted_and_what_is_none_is_set_aside(log: UsageLog) -> None:
    bad: list[tuple[Message, str]] = [
        ((b"nope", {}), "request.invalid_json: "),
        ((b"", {}), "request.invalid_json: "),
        ((b"[" + event("in-array") + b"]", {}), "request.invalid_json: "),
        ((b"\xff", BINARY), "request.invalid_json: "),
        ((event("x", subject=None), {}), "event.missing_field: "),
        ((event("x", time="tomorrow"), {}), "event.invalid_time: "),
        ((event("x", data={"pad": "x" * MAX_EVENT_BYTES}), {}), "event.too_large: "),
        ((event("x"), {"meterline-tenant": b"ten_nobody"}), "tenant.unknown: "),
        ((event("x"), {"meterline-tenant": b"\xff\0"}), "tenant.unknown: "),
    ]
    good: list[Message] = [
        (event("plain"), {}),
        (event("plain"), {}),
        (event("structured"), {"content-type": b"application/cloudevents+json; charset=UTF-8"}),
        (b'{"tokens": 5}', BINARY),
        (event("plain"), {"Meterline-Tenant": b"ten_other"}),
    ]
    put(log, [good[0], *(message for message, _ in bad), *good[1:]])
    with log.flow() as flow:
        wait_for(lambda: len(log.usage()) == 2 and sum(n for n, _ in log.usage().values()) == 4, "all are counted")
        log.wait_stored(flow)
    assert {key[0]: total for key, (_, total) in log.usage().items()} == {1: 15, 2: 5}
    rows = log.postgres.execute("SELECT topic, reason, message FROM poison_messages").fetchall()
    assert {row["topic"] for row in rows} == {log.settings.inbox_topic}
    found = sorted((row["reason"].partition(" ")[0] + " ", bytes(row["message"])) for row in rows)
    assert found == sorted((reason, message[0][: 64 * 1024]) for message, reason in bad)


def total(log: UsageLog) -> Any:
    return sum(total for _, total in log.usage().values())


def test_messages_that_are_read_again_after_a_kill_count_once(log: UsageLog) -> None:
    before = {key: total for key, (_, total) in log.usage().items()}
    copies = len(log.copies())
    put(log, [(event(f"again-{number}", time=None), {}) for number in range(50)])
    flow = log.start_flow(crash_at="inbox.published", inbox_topic=log.settings.inbox_topic)
    assert flow.wait(WAIT_SECONDS) == -signal.SIGKILL, flow.logged()
    with log.flow() as running:
        # The killed flow may have had some of them only; those come twice, the others once.
        wait_for(lambda: len(log.copies()) > copies and total(log) == sum(before.values()) + 50 * 5, "all are read")
        log.wait_stored(running)
    after = log.usage()
    assert sum(total for _, total in after.values()) - sum(before.values()) == 50 * 5


def test_without_an_inbox_there_is_no_topic_of_that_name(fresh_stack: Settings) -> None:
    assert ensure_topics(fresh_stack.model_copy(update={"inbox_topic": ""})) != []
    inbox = f"{fresh_stack.events_topic}.inbox"
    assert ensure_topics(fresh_stack.model_copy(update={"inbox_topic": inbox})) == [inbox]
