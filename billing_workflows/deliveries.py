"""Delivering webhooks of one endpoint: plain functions over open doors. The sending is in `infra.webhooks`.

At least once: a crash after the sending and before the record sends again, under the same `webhook-id`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from infra.crash_points import crash_point
from infra.postgres import outbox
from infra.postgres.pool import Database, PgConnection, Row
from infra.postgres.webhooks import deliveries, endpoints
from infra.webhooks.retries import DISABLE_AFTER, next_try
from infra.webhooks.send import Answer, post
from infra.webhooks.signatures import sign
from schemas.instants import format_instant
from schemas.topics import SystemEvent
from schemas.workflows import Delivered

CHUNK_SIZE = 64  # deliveries an activity
AT_ONCE = 8  # of one endpoint
CHUNK_BUDGET = timedelta(seconds=20)  # then others have their turn
GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDoors:
    """What deliveries need. `clock` gives the instant, in UTC."""

    database: Database
    clock: Callable[[], datetime]
    allow_private: bool


def deliver_chunk(doors: DeliveryDoors, endpoint_id: str, *, stopping: Callable[[], bool]) -> Delivered:
    """Send what is due, several at once, until there is no more of the chunk, its time is over or `stopping`."""
    started_at = doors.clock()
    with doors.database.transaction() as connection:
        due = deliveries.load_due(connection, endpoint_id=endpoint_id, now=started_at, limit=CHUNK_SIZE)
    succeeded = failed = 0
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as senders:
        for start in range(0, len(due), AT_ONCE):
            if stopping() or doors.clock() - started_at > CHUNK_BUDGET:
                break
            wave = due[start : start + AT_ONCE]
            sent_at = doors.clock()
            answers = list(senders.map(partial(_send, now=sent_at, allow_private=doors.allow_private), wave))
            crash_point("webhooks.sent")
            for row, sent in zip(wave, answers, strict=True):
                with doors.database.transaction() as connection:
                    record(connection, row["id"], sent, attempted_at=sent_at, now=doors.clock())
                succeeded += sent.is_success
                failed += not sent.is_success
    with doors.database.transaction() as connection:
        more = deliveries.load_due(connection, endpoint_id=endpoint_id, now=doors.clock(), limit=1)
    return Delivered(succeeded=succeeded, failed=failed, more=bool(more))


def _send(row: Row, *, now: datetime, allow_private: bool) -> Answer:
    secrets = [row["secret"]]
    if row["old_secret"] is not None and now < row["old_secret_until"]:
        secrets.append(row["old_secret"])
    headers = {
        "content-type": "application/json",
        "user-agent": "Meterline",
        **sign(secrets, message_id=row["message_id"], body=row["body"], now=now),
    }
    return post(row["url"], headers, row["body"], allow_private=allow_private)


def record(
    connection: PgConnection, delivery_id: str, answer: Answer, *, attempted_at: datetime, now: datetime
) -> None:
    """Write down an attempt and what follows from it: done, another try, given up, or a disabled endpoint."""
    found = deliveries.lock_delivery(connection, delivery_id=delivery_id)
    if found is None:
        return
    delivery, endpoint = found
    deliveries.add_attempt(
        connection,
        delivery=delivery,
        attempted_at=attempted_at,
        latency_ms=answer.latency_ms,
        status_code=answer.status_code,
        error=answer.error,
        response_body=answer.body,
    )
    if answer.is_success:
        deliveries.set_status(connection, delivery_id=delivery_id, status="succeeded")
        if endpoint["failing_since"] is not None:
            endpoints.note_result(connection, endpoint_id=endpoint["id"], failing_since=None)
        return
    if delivery["status"] == "pending":
        at = None if answer.status_code == GONE else next_try(delivery_id, delivery["tries"] + 1, now=now)
        status = "failed" if at is None else "pending"
        deliveries.set_status(connection, delivery_id=delivery_id, status=status, next_attempt_at=at)
    _note_failure(connection, endpoint, is_gone=answer.status_code == GONE, now=now)


def _note_failure(connection: PgConnection, endpoint: Row, *, is_gone: bool, now: datetime) -> None:
    since = endpoint["failing_since"] or now
    if endpoint["failing_since"] is None:
        endpoints.note_result(connection, endpoint_id=endpoint["id"], failing_since=since)
    if endpoint["disabled_at"] is not None or not (is_gone or now - since >= DISABLE_AFTER):
        return
    reason = "gone" if is_gone else "failing"
    endpoints.disable(connection, endpoint_id=endpoint["id"], reason=reason, now=now)
    outbox.append(
        connection,
        tenant_id=endpoint["tenant_id"],
        event=SystemEvent.WEBHOOK_ENDPOINT_DISABLED,
        object_id=endpoint["id"],
        data={
            "object": "webhook_endpoint",
            "id": endpoint["id"],
            "url": endpoint["url"],
            "disabled_at": format_instant(now),
            "disabled_reason": reason,
            "failing_since": format_instant(since),
        },
        now=now,
    )
