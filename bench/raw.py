"""What a broker takes from a bare producer: the ceiling that ingest is measured against."""

import random
import secrets
import time

import numpy as np

from bench.load import ID_PLACE, TIME_PLACE, make_template
from infra.intake.columns import identify
from infra.intake.decode import Form, decode
from infra.intake.pack import pack
from infra.kafka.producer import Producer
from infra.kafka.topics import ensure_topics
from infra.settings import Settings

SECONDS = 5
MAX_IN_FLIGHT = 200
SHARED_REQUESTS = 50  # single events that share messages under load, about
QUEUED_BYTES = 256 * 1024 * 1024


def measure_broker(bootstrap: str, events_a_request: int) -> float:
    """Events a second that are acknowledged when messages as ingest packs them are only produced, never made."""
    settings = Settings(kafka_bootstrap=bootstrap)
    name = f"bench.{secrets.token_hex(4)}"
    settings = settings.model_copy(
        update={"events_topic": f"{name}.e", "balances_topic": f"{name}.b", "system_topic": f"{name}.s"}
    )
    ensure_topics(settings)
    template = make_template(max(events_a_request, SHARED_REQUESTS), "raw", random.Random(1))
    body = template.replace(ID_PLACE, b"%012d" % 1).replace(TIME_PLACE, b"2026-01-01T00:00:00Z")
    events = decode(body, Form.JSON, time.time_ns() // 1000).events
    assert events is not None
    identify(events, 1)
    messages = pack(events, 1, settings.events_partitions)
    producer = Producer(bootstrap, linger_ms=1, timeout_seconds=30, queued_bytes=QUEUED_BYTES)
    delivered = np.zeros(2, np.int64)  # events acknowledged, messages decided

    started = time.monotonic()
    sent = 0
    while time.monotonic() < started + SECONDS or delivered[1] < sent:
        if time.monotonic() < started + SECONDS and sent - delivered[1] < MAX_IN_FLIGHT:
            for message in messages:
                count = message.count

                def on_delivery(error: str | None, count: int = count) -> None:
                    delivered[0] += count if error is None else 0
                    delivered[1] += 1

                producer.send(settings.events_topic, message.partition, message.value, [("tenant", "1")], on_delivery)
                sent += 1
        else:
            time.sleep(0.0005)
        producer.poll()
    rate = int(delivered[0]) / (time.monotonic() - started)
    producer.close(SECONDS)
    return rate
