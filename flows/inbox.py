"""The inbox: events that others put on Kafka themselves, judged as the API would and published to the events topic.

    inbox → read each → set the unreadable aside → publish to the partitions of their identities → keep the place

At least once: a crash before the place is kept publishes the same events again, and their identities make them copies.
A thread and not a dataflow: one topic to another, and the only state is the group's place.
"""

import threading
import time

import structlog

from flows.metrics import INBOX_EVENTS
from infra.crash_points import crash_point
from infra.intake.columns import Columns, concatenate, identify
from infra.intake.inbox import read_message
from infra.intake.pack import pack
from infra.kafka.inbox import InboxMessage, InboxReader
from infra.kafka.producer import Headers, Producer
from infra.postgres.poison import PoisonMessage, record_poison
from infra.postgres.pool import PgConnection
from infra.postgres.tenants import ROOT_TENANT_ID, load_clocked_tenants, load_tenant_numbers
from infra.settings import Settings
from schemas.errors import MeterlineError, Reject, Retry
from schemas.events import HEADER_COUNT, HEADER_TENANT_NO
from schemas.instants import from_micros

TENANT_HEADER = "meterline-tenant"
WAIT_SECONDS = 0.2
MISSING_SECONDS = 5.0  # between two looks for a topic that is not there
POLL_SECONDS = 0.002
LINGER_MS = 5
QUEUED_BYTES = 64 * 1024 * 1024
MAX_KEPT_BYTES = 64 * 1024  # of a message set aside
MAX_REASON_LENGTH = 1_000

log = structlog.get_logger()


def relay_inbox(settings: Settings, connection: PgConnection, stop: threading.Event) -> None:
    """Move events until `stop` is set. Raises Retry when Kafka or PostgreSQL is away: what is not kept comes again."""
    producer = Producer(
        settings.kafka_bootstrap,
        linger_ms=LINGER_MS,
        timeout_seconds=settings.ingest_ack_timeout_seconds,
        queued_bytes=QUEUED_BYTES,
    )
    with InboxReader(settings.kafka_bootstrap, settings.inbox_topic) as reader:
        while reader.start() == 0:
            log.warning("there is no inbox; `meterline migrate` makes it", topic=settings.inbox_topic)
            if stop.wait(MISSING_SECONDS):
                return
        log.info("reading the inbox", topic=settings.inbox_topic)
        while not stop.is_set():
            messages = reader.poll(WAIT_SECONDS)
            if messages:
                move(messages, settings, connection, producer, now_micros=time.time_ns() // 1000)
                crash_point("inbox.published")
                reader.commit(messages)
    producer.close(settings.ingest_ack_timeout_seconds)


def move(
    messages: list[InboxMessage], settings: Settings, connection: PgConnection, producer: Producer, *, now_micros: int
) -> None:
    """Publish the events of these messages and set aside what is none; both are done when this returns.

    An event is received when its message was stamped: at the same instant each time it is read.
    """
    numbers, clocked = _tenants(messages, connection)
    events: dict[int, list[Columns]] = {}
    poison: list[PoisonMessage] = []
    for message in messages:
        try:
            tenant_no = _tenant_no(message, numbers)
            stamped_micros = min(message.stamped_at_ms * 1000, now_micros)
            any_time = _tenant_id(message) in clocked
            columns = read_message(message.value, message.headers, stamped_micros, any_time=any_time)
        except MeterlineError as error:
            poison.append(_poison(message, error))
        else:
            events.setdefault(tenant_no, []).append(columns)
    if poison:
        with connection.transaction():
            record_poison(connection, topic=settings.inbox_topic, messages=poison)
        log.warning("inbox messages set aside", count=len(poison), first_reason=poison[0].reason)
    for tenant_no, parts in events.items():
        _publish(concatenate(parts), tenant_no, settings, producer)
    INBOX_EVENTS.labels("published").inc(len(messages) - len(poison))
    INBOX_EVENTS.labels("set_aside").inc(len(poison))


def _publish(columns: Columns, tenant_no: int, settings: Settings, producer: Producer) -> None:
    """Publish and wait for every acknowledgement. Raises Retry; some events may be on the log all the same."""
    identify(columns, tenant_no)
    failures: list[str] = []
    undecided = 0

    def delivered(error: str | None) -> None:
        nonlocal undecided
        undecided -= 1
        if error is not None:
            failures.append(error)

    for message in pack(columns, tenant_no, settings.events_partitions):
        headers: Headers = [(HEADER_TENANT_NO, str(tenant_no)), (HEADER_COUNT, str(message.count))]
        producer.send(settings.events_topic, message.partition, message.value, headers, delivered)
        undecided += 1
    while undecided:  # each is decided within the producer's timeout
        producer.poll()
        time.sleep(POLL_SECONDS)
    if failures:
        raise Retry("broker.unavailable", f"events of the inbox could not be published: {failures[0]}")


def _tenant_id(message: InboxMessage) -> str:
    return message.headers.get(TENANT_HEADER, ROOT_TENANT_ID.encode()).decode("utf-8", "replace").replace("\0", "?")


def _tenants(messages: list[InboxMessage], connection: PgConnection) -> tuple[dict[str, int], set[str]]:
    """The numbers of the messages' tenants, by id, and which of them have test clocks."""
    ids = list({_tenant_id(message) for message in messages})
    with connection.transaction():
        return load_tenant_numbers(connection, ids), load_clocked_tenants(connection, ids)


def _tenant_no(message: InboxMessage, numbers: dict[str, int]) -> int:
    tenant_id = _tenant_id(message)
    if tenant_id not in numbers:
        raise Reject("tenant.unknown", f"there is no tenant {tenant_id[:64]!r}")
    return numbers[tenant_id]


def _poison(message: InboxMessage, error: MeterlineError) -> PoisonMessage:
    return PoisonMessage(
        partition=message.partition,
        offset=message.offset,
        reason=f"{error.code}: {error.detail}"[:MAX_REASON_LENGTH].replace("\0", "?"),
        message=message.value[:MAX_KEPT_BYTES],
        appended_at=from_micros(message.stamped_at_ms * 1000),
    )
