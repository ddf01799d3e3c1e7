"""Delivering webhooks of one endpoint: plain functions over open doors. The sending is in `infra.webhooks`.

At least once: a crash after the sending and before the record sends again, under the same `webhook-id`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta

from infra.crash_points import crash_point
from infra.postgres import outbox
from infra.postgres.pool import Database, PgConnection, Row
from infra.postgres.webhooks import deliveries, endpoints
from infra.postgres.webhooks.deliveries import Attempt
from infra.webhooks.retries import DISABLE_AFTER, next_try
from infra.webhooks.send import Answer, post
from infra.webhooks.signatures import sign
from schemas.instants import format_instant
from schemas.topics import SystemEvent
from schemas.workflows import Delivered, DeliveryRequest

CHUNK_SIZE = 64  # deliveries an activity
AT_ONCE = 8  # of one endpoint
CHUNK_BUDGET = timedelta(seconds=5)  # then others have their turn, once what is under way has ended
GONE = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDoors:
    """What deliveries need. `clock` gives the instant, in UTC."""

    database: Database
    clock: Callable[[], datetime]
    allow_private: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One attempt and what came of it."""

    delivery_id: str
    attempted_at: datetime
    answer: Answer


def deliver_chunk(doors: DeliveryDoors, request: DeliveryRequest, *, stopping: Callable[[], bool]) -> Delivered:
    """Send what is due, several at once, until there is no more of the chunk, its time is over or `stopping`.

    `more` is False, too, where the endpoint is to be served elsewhere from now on: among those that fail if it took its
    whole time without a success, among the others if nothing failed. Whoever looks for what is due starts it there.
    """
    endpoint_id, started_at = request.endpoint_id, doors.clock()
    with doors.database.transaction() as connection:
        due = deque(deliveries.load_due(connection, endpoint_id=endpoint_id, now=started_at, limit=CHUNK_SIZE))
    succeeded = failed = 0
    under_way: set[Future[Sent]] = set()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as senders:
        while due or under_way:
            if stopping() or doors.clock() - started_at > CHUNK_BUDGET:
                due.clear()
            while due and len(under_way) < AT_ONCE:
                under_way.add(senders.submit(_send, due.popleft(), doors))
            ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            sent = [each.result() for each in ended]
            crash_point("webhooks.sent")
            if sent:
                with doors.database.transaction() as connection:
                    record(connection, endpoint_id, sent, now=doors.clock())
            succeeded += sum(each.answer.is_success for each in sent)
            failed += sum(not each.answer.is_success for each in sent)
    with doors.database.transaction() as connection:
        more = deliveries.load_due(connection, endpoint_id=endpoint_id, now=doors.clock(), limit=1)
    is_slow = doors.clock() - started_at > CHUNK_BUDGET
    stays = failed > 0 if request.is_failing else succeeded > 0 or not is_slow
    return Delivered(succeeded=succeeded, failed=failed, more=bool(more) and stays)


def _send(row: Row, doors: DeliveryDoors) -> Sent:
    now = doors.clock()
    secrets = [row["secret"]]
    if row["old_secret"] is not None and now < row["old_secret_until"]:
        secrets.append(row["old_secret"])
    headers = {
        "content-type": "application/json",
        "user-agent": "Meterline",
        **sign(secrets, message_id=row["message_id"], body=row["body"], now=now),
    }
    answer = post(row["url"], headers, row["body"], allow_private=doors.allow_private)
    return Sent(delivery_id=row["id"], attempted_at=now, answer=answer)


def record(connection: PgConnection, endpoint_id: str, sent: Sequence[Sent], *, now: datetime) -> None:
    """Write down attempts at different deliveries of an endpoint, and what follows from each: done, another try, given
    up, or a disabled endpoint."""
    ids = [each.delivery_id for each in sent]
    endpoint, rows = deliveries.lock_deliveries(connection, endpoint_id=endpoint_id, delivery_ids=ids)
    if endpoint is None:
        return
    known = [each for each in sent if each.delivery_id in rows]
    deliveries.save_attempts(connection, [_attempt(rows[each.delivery_id], each, now) for each in known])
    failures = [each.answer for each in known if not each.answer.is_success]
    if len(failures) < len(known) and endpoint["failing_since"] is not None:
        endpoints.note_result(connection, endpoint_id=endpoint_id, failing_since=None)
        endpoint["failing_since"] = None
    if failures:
        _note_failure(connection, endpoint, is_gone=any(each.status_code == GONE for each in failures), now=now)


def _attempt(delivery: Row, sent: Sent, now: datetime) -> Attempt:
    status, at = delivery["status"], None
    if sent.answer.is_success:
        status = "succeeded"
    elif status == "pending":
        is_gone = sent.answer.status_code == GONE
        at = None if is_gone else next_try(sent.delivery_id, delivery["tries"] + 1, now=now)
        status = "failed" if at is None else "pending"
    return Attempt(
        delivery_id=sent.delivery_id,
        no=delivery["attempts"] + 1,
        attempted_at=sent.attempted_at,
        latency_ms=sent.answer.latency_ms,
        status_code=sent.answer.status_code,
        error=sent.answer.error,
        response_body=sent.answer.body,
        status=status,
        next_attempt_at=at,
    )


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
