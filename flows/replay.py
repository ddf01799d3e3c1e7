"""Events that came before their subject, replayed by themselves once the subject is there; and those that were ahead
of a test clock, once it has been moved on.

A flow judges every batch by one version of the catalogue. Once every shard has passed the version that brought a
subject, and all it judged before is stored, whatever was quarantined for want of that subject can be found; a change
message for each goes onto the log. The same holds of a clock. After that the version is marked as replayed. A crash in
between publishes the messages again, which does no harm: a replay changes only what is quarantined.
"""

import threading
from datetime import timedelta

import structlog

from flows.attribute import UNKNOWN_SUBJECT
from flows.clocks import TIME_IN_FUTURE
from flows.metrics import REPLAYED_EVENTS
from infra.clickhouse.client import Client
from infra.clickhouse.history import SUBJECTS_A_QUERY, QuarantineFilter, quarantined_pages
from infra.crash_points import crash_point
from infra.kafka.changes import ChangeLog
from infra.postgres.pool import PgConnection
from infra.postgres.replays import (
    BEFORE_ALL,
    VersionRange,
    arrived_subjects,
    moved_clocks,
    record_replayed,
    replayable_versions,
)
from schemas.events import ChangeKind

LOOK_SECONDS = 0.5
CLOCKS_A_PAGE = 100
JUST_AFTER = timedelta(microseconds=1)  # what is exactly at a clock's now is not ahead of it

log = structlog.get_logger()


def replay(connection: PgConnection, client: Client, changes: ChangeLog, *, shards: int, stop: threading.Event) -> None:
    """Replay whatever has become replayable in a layout of so many shards, until `stop` is set."""
    while not stop.wait(LOOK_SECONDS):
        versions = replayable_versions(connection, shards=shards)
        if versions is None:
            continue
        if publish_replays(connection, client, changes, versions=versions, stop=stop):
            crash_point("replay.published")
            record_replayed(connection, version=versions.up_to)


def publish_replays(
    connection: PgConnection, client: Client, changes: ChangeLog, *, versions: VersionRange, stop: threading.Event
) -> bool:
    """Put a replay of every event that waits for a subject of these versions onto the log.

    False: it was told to stop before the end. Raises Retry when the broker does not take them.
    """
    return _replay_subjects(connection, client, changes, versions, stop) and _replay_clocks(
        connection, client, changes, versions, stop
    )


def _replay_subjects(
    connection: PgConnection, client: Client, changes: ChangeLog, versions: VersionRange, stop: threading.Event
) -> bool:
    past = BEFORE_ALL
    while page := arrived_subjects(connection, versions=versions, past=past, limit=SUBJECTS_A_QUERY):
        past = page[-1]
        by_tenant: dict[int, list[str]] = {}
        for arrived in page:
            by_tenant.setdefault(arrived.tenant_no, []).append(arrived.subject)
        for tenant_no, subjects in by_tenant.items():
            wanted = QuarantineFilter(tenant_no=tenant_no, code=UNKNOWN_SUBJECT, subjects=subjects)
            if not _publish(client, changes, wanted, stop, why="their subject came"):
                return False
    return not stop.is_set()


def _replay_clocks(
    connection: PgConnection, client: Client, changes: ChangeLog, versions: VersionRange, stop: threading.Event
) -> bool:
    past = (0, 0)
    while page := moved_clocks(connection, versions=versions, past=past, limit=CLOCKS_A_PAGE):
        past = (page[-1].version, page[-1].clock_no)
        for clock in page:
            wanted = QuarantineFilter(
                tenant_no=clock.tenant_no,
                code=TIME_IN_FUTURE,
                end=clock.now + JUST_AFTER,
                customers=clock.customers,
            )
            if not _publish(client, changes, wanted, stop, why="their test clock was moved on"):
                return False
    return not stop.is_set()


def _publish(client: Client, changes: ChangeLog, wanted: QuarantineFilter, stop: threading.Event, *, why: str) -> bool:
    for identities in quarantined_pages(client, wanted):
        if stop.is_set():
            return False
        changes.publish(tenant_no=wanted.tenant_no, kind=ChangeKind.REPLAY, identities=identities)
        crash_point("replay.page_published")
        REPLAYED_EVENTS.inc(len(identities))
        log.info("replaying events", why=why, tenant_no=wanted.tenant_no, events=len(identities))
    return True
