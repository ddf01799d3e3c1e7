"""The examples of docs/ingest.md give what the page says."""

import json
import re
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.kafka.topics import INBOX_PARTITIONS, ensure_topics
from infra.settings import Settings
from tests.support.pages import DOCS, blocks, run_page
from tests.support.services import Services

PAGE = DOCS / "ingest.md"
READ_SECONDS = 30


@pytest.mark.timeout(150)
def test_every_form_of_the_page_is_taken(services: Services) -> None:
    answers: list[dict[str, Any]] = [json.loads(line) for line in run_page(PAGE, services).splitlines()]
    assert [(each["accepted"], each["duplicates"], len(each["rejected"])) for each in answers] == [
        (1, 0, 0), (1, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 1)
    ]  # fmt: skip
    assert answers[-1]["rejected"][0]["code"] == "event.invalid_time"


def test_the_example_for_kafka_puts_an_event_on_the_inbox(fresh_stack: Settings) -> None:
    [block] = blocks(PAGE, "python")
    topic = f"{fresh_stack.events_topic}.inbox"
    ensure_topics(fresh_stack.model_copy(update={"inbox_topic": topic}))
    block = block.replace("usage.inbox", topic)
    exec(block, {"bootstrap": fresh_stack.kafka_bootstrap, "tenant_id": "ten_default"})  # noqa: S102 - our own page
    consumer = Consumer({"bootstrap.servers": fresh_stack.kafka_bootstrap, "group.id": "tests"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(INBOX_PARTITIONS)])
    [message] = consumer.consume(1, READ_SECONDS)
    consumer.close()
    assert json.loads(message.value())["id"] == "k-1"
    assert message.headers() == [("meterline-tenant", b"ten_default")]


def test_the_page_names_the_settings_as_they_are() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in set(re.findall(r"METERLINE_([A-Z_]+)", text)) - {"URL", "API_KEY"}:
        assert name.lower() in Settings.model_fields
    defaults = Settings.model_fields
    assert f"`METERLINE_INGEST_LINGER_MS` ({defaults['ingest_linger_ms'].default})" in text
    assert f"`METERLINE_INGEST_ACK_TIMEOUT_SECONDS` ({defaults['ingest_ack_timeout_seconds'].default})" in text
    assert f"`METERLINE_INBOX_TOPIC` (`{defaults['inbox_topic'].default}`" in text
