"""Events that came before their subject, replayed by themselves once the subject is there.

A flow judges every batch by one version of the catalogue. Once every shard has passed the version that brought a
subject, and all it judged before is stored, whatever was quarantined for want of that subject can be found; a change
message for each goes onto the log. After that the version is marked as replayed. A crash in between publishes the
messages again, which does no harm: a replay changes only what is quarantined.
"""

import threading

import structlog

from flows.attribute import UNKNOWN_SUBJECT
from flows.metrics import REPLAYED_EVENTS
from infra.clickhouse.client import Client
from infra.clickhouse.history import SUBJECTS_A_QUERY, QuarantineFilter, quarantined_pages
from infra.crash_points import crash_point
from infra.kafka.changes import ChangeLog
from infra.postgres.pool import PgConnection
from infra.postgres.replays import BEFORE_ALL, VersionRange, arrived_subjects, record_replayed, replayable_versions
from schemas.events import ChangeKind

LOOK_SECONDS = 0.5

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
    past = BEFORE_ALL
    while page := arrived_subjects(connection, versions=versions, past=past, limit=SUBJECTS_A_QUERY):
        past = page[-1]
        by_tenant: dict[int, list[str]] = {}
        for arrived in page:
            by_tenant.setdefault(arrived.tenant_no, []).append(arrived.subject)
        for tenant_no, subjects in by_tenant.items():
            wanted = QuarantineFilter(tenant_no=tenant_no, code=UNKNOWN_SUBJECT, subjects=subjects)
            for identities in quarantined_pages(client, wanted):
                if stop.is_set():
                    return False
                changes.publish(tenant_no=tenant_no, kind=ChangeKind.REPLAY, identities=identities)
                crash_point("replay.page_published")
                REPLAYED_EVENTS.inc(len(identities))
                log.info("replaying events whose subject came", tenant_no=tenant_no, events=len(identities))
    return not stop.is_set()
