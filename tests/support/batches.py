"""Random events, as columns of a request and as they come back from the log; and a publisher that runs."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from infra.intake.columns import Columns, identify
from infra.intake.decode import Form, decode
from infra.kafka.event_log import identity_hash
from infra.kafka.producer import Producer
from infra.settings import Settings
from ingestion_api.ingest.publish import Publisher
from schemas.events import EventBatch
from schemas.instants import parse_instant, to_micros

NOW = to_micros(parse_instant("2026-01-31T12:00:00Z"))
TENANT_NO = 3


def columns_of(events: Sequence[dict[str, Any]]) -> Columns:
    decoded = decode(json.dumps(events).encode(), Form.JSON, NOW)
    assert decoded.rejections == []
    assert decoded.events is not None
    identify(decoded.events, TENANT_NO)
    return decoded.events


def random_events(count: int, *, seed: int = 0, size: int = 20) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "id": f"{seed}-{number}-ü",
            "source": rng.choice(["api", "svc"]),
            "type": f"type-{rng.randrange(100)}",
            "subject": f"subject-{rng.randrange(50)}",
            "data": {"n": number, "pad": "x" * rng.randrange(size)},
        }
        | ({"time": f"2026-01-{rng.randrange(1, 31):02d}T00:00:00.{number % 1000:03d}Z"} if rng.random() < 0.8 else {})
        | ({"reservation": f"rsv_{number}"} if rng.random() < 0.1 else {})
        for number in range(count)
    ]


def rows_of(batch: EventBatch) -> list[dict[str, Any]]:
    """A batch as the events it was made of."""

    def texts(blob: bytes, lengths: bytes) -> list[str]:
        found: list[str] = []
        start = 0
        for length in memoryview(lengths).cast("H"):
            found.append(blob[start : start + length].decode())
            start += length
        assert start == len(blob)
        return found

    untimed = set(memoryview(batch.untimed).cast("I"))
    rows: list[dict[str, Any]] = []
    for place, (event_id, subject, data) in enumerate(
        zip(
            texts(batch.ids, batch.id_lengths),
            texts(batch.subjects, batch.subject_lengths),
            texts(batch.data, batch.data_lengths),
            strict=True,
        )
    ):
        source = batch.sources[memoryview(batch.source_codes).cast("H")[place]]
        assert batch.hashes[16 * place :][:16] == identity_hash(TENANT_NO, source, event_id)
        rows.append(
            {
                "id": event_id,
                "source": source,
                "type": batch.types[memoryview(batch.type_codes).cast("H")[place]],
                "subject": subject,
                "data": json.loads(data),
                "micros": memoryview(batch.times).cast("q")[place],
                "untimed": place in untimed,
                "extensions": json.loads(batch.extensions.get(place, "{}")),
            }
        )
    assert len(rows) == batch.count
    return rows


def expected_rows(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **{name: each[name] for name in ("id", "source", "type", "subject", "data")},
            "micros": to_micros(parse_instant(each["time"])) if "time" in each else NOW,
            "untimed": "time" not in each,
            "extensions": {"reservation": each["reservation"]} if "reservation" in each else {},
        }
        for each in events
    ]


@asynccontextmanager
async def running_publisher(settings: Settings, *, timeout_seconds: int = 10) -> AsyncIterator[Publisher]:
    producer = Producer(
        settings.kafka_bootstrap, linger_ms=1, timeout_seconds=timeout_seconds, queued_bytes=64 * 1024 * 1024
    )
    publisher = Publisher(
        producer,
        topic=settings.events_topic,
        partitions=settings.events_partitions,
        linger_ms=5,
        max_bytes_in_flight=1_000_000,
    )
    running = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        producer.close(1)
