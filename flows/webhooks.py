"""From the topic of system events to webhooks: who is to be told of what. The worker tells them.

    system.events → messages and deliveries (one transaction) → keep the place

At least once: a crash before the place is kept reads the same events again, and message and endpoint are unique, so
nothing is told twice. An endpoint is told of events that were made after it: ids say so, since they sort by the real
time at which they were made, while `created_at` may be that of a test clock.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from flows.metrics import WEBHOOK_DELIVERIES
from infra.crash_points import crash_point
from infra.kafka.inbox import InboxMessage, InboxReader
from infra.postgres.poison import PoisonMessage, record_poison
from infra.postgres.pool import PgConnection, Row
from infra.postgres.webhooks import deliveries, endpoints
from infra.postgres.webhooks.deliveries import Message, NewDelivery
from infra.settings import Settings
from infra.webhooks.bodies import encode_body
from infra.webhooks.matching import wants
from schemas.ids import Prefix, new_id
from schemas.instants import from_micros
from schemas.topics import SystemEvent, SystemEventMessage

GROUP = "meterline-webhooks"
WAIT_SECONDS = 0.2
MISSING_SECONDS = 5.0  # between two looks for a topic that is not there
KEEP = timedelta(days=30)  # messages with their deliveries; must be longer than the topic keeps its events
CLEAN_EVERY = timedelta(minutes=1)
CLEAN_AT_ONCE = 1_000
MAX_REASON_LENGTH = 1_000

log = structlog.get_logger()


def relay_webhooks(
    settings: Settings, connection: PgConnection, stop: threading.Event, *, clock: Callable[[], datetime]
) -> None:
    """Note whom to tell until `stop` is set. Raises Retry when Kafka or PostgreSQL is away: what is not kept comes
    again."""
    cleaned_at = clock() - CLEAN_EVERY
    with InboxReader(settings.kafka_bootstrap, settings.system_topic, group=GROUP) as reader:
        while reader.start() == 0:
            if stop.wait(MISSING_SECONDS):
                return
        while not stop.is_set():
            messages = reader.poll(WAIT_SECONDS)
            if messages:
                fan_out(connection, messages, topic=settings.system_topic, now=clock())
                crash_point("webhooks.fanned_out")
                reader.commit(messages)
            if clock() - cleaned_at >= CLEAN_EVERY:
                cleaned_at = clock()
                deliveries.delete_old(connection, before=cleaned_at - KEEP, limit=CLEAN_AT_ONCE)


def fan_out(connection: PgConnection, messages: Sequence[InboxMessage], *, topic: str, now: datetime) -> None:
    """In one transaction, store what each of these events makes due. What is no system event is set aside."""
    events: list[SystemEventMessage] = []
    poison: list[PoisonMessage] = []
    for message in messages:
        try:
            events.append(msgspec.json.decode(message.value, type=SystemEventMessage))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            poison.append(_poison(message, str(error)))
    with connection.transaction():
        listening = endpoints.load_listening(connection, tenant_ids=sorted({event.tenant_id for event in events}))
        told = [(event, [row for row in listening if _is_told(row, event)]) for event in events]
        new = [
            NewDelivery(new_id(Prefix.WEBHOOK_DELIVERY), event.tenant_id, row["id"], event.id)
            for event, rows in told
            for row in rows
        ]
        bodies = [Message(event.id, event.tenant_id, event.type, encode_body(event)) for event, rows in told if rows]
        deliveries.insert(connection, messages=bodies, deliveries=new, now=now)
        record_poison(connection, topic=topic, messages=poison)
    WEBHOOK_DELIVERIES.inc(len(new))
    if poison:
        log.error("messages that are no system events set aside", count=len(poison), first_reason=poison[0].reason)


def _is_told(endpoint: Row, event: SystemEventMessage) -> bool:
    return (
        endpoint["tenant_id"] == event.tenant_id
        and event.type != SystemEvent.WEBHOOK_ENDPOINT_TEST
        and _made_before(endpoint["id"], event.id)
        and wants(endpoint["events"], event.type)
    )


def _made_before(endpoint_id: str, event_id: str) -> bool:
    return endpoint_id.partition("_")[2] < event_id.partition("_")[2]


def _poison(message: InboxMessage, reason: str) -> PoisonMessage:
    return PoisonMessage(
        partition=message.partition,
        offset=message.offset,
        reason=f"system_event.unreadable: {reason}"[:MAX_REASON_LENGTH],
        message=message.value,
        appended_at=from_micros(message.stamped_at_ms * 1000),
    )
