"""The relay of system events: from the outbox of PostgreSQL to Kafka, at least once, in order, under stable ids.

A row is deleted only after the broker has its event. A crash in between publishes it again under the same id, which is
what consumers recognise it by. A thread and not a dataflow: one table to one topic, nothing to transform.
"""

import threading

import msgspec
import structlog

from flows.metrics import RELAYED_EVENTS
from infra.crash_points import crash_point
from infra.kafka.system_log import SystemLog
from infra.postgres import outbox
from infra.postgres.pool import PgConnection
from schemas.topics import SystemEventMessage

ROWS_AT_ONCE = 500
IDLE_SECONDS = 0.2  # between two looks while the outbox is empty
TAKE_OVER_SECONDS = 2.0  # between two tries to become the relay

log = structlog.get_logger()


def relay_once(connection: PgConnection, events: SystemLog) -> int:
    """Publish the oldest rows and delete them; how many. Raises Retry when the broker does not take them."""
    with connection.transaction():
        rows = outbox.take(connection, limit=ROWS_AT_ONCE)
        if not rows:
            return 0
        events.publish(
            [
                (
                    row["object_id"],
                    msgspec.json.encode(
                        SystemEventMessage(
                            id=row["id"],
                            type=row["type"],
                            tenant_id=row["tenant_id"],
                            object_id=row["object_id"],
                            data=row["data"],
                            created_at=row["created_at"],
                        )
                    ),
                )
                for row in rows
            ]
        )
        crash_point("outbox.published")
        outbox.remove(connection, [row["no"] for row in rows])
    RELAYED_EVENTS.inc(len(rows))
    return len(rows)


def relay(connection: PgConnection, events: SystemLog, stop: threading.Event) -> None:
    """Be the relay, as soon as nobody else is, until `stop` is set."""
    while not outbox.become_relay(connection):
        if stop.wait(TAKE_OVER_SECONDS):
            return
    log.info("relaying system events")
    while not stop.is_set():
        if relay_once(connection, events) < ROWS_AT_ONCE:
            stop.wait(IDLE_SECONDS)
