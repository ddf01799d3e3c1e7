"""Building a revision of a meter: wait until flows count it live, count the past, switch readers over.

Each step may be repeated, and after a crash is. The workflow in `billing_workflows.meter_builds` does, with retries;
`python -m flows.builds` runs what is waiting in the foreground, for who has no Temporal.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from flows.rebuild import count_past
from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.clickhouse.past import Hour, Selection, count_facts
from infra.crash_points import crash_point
from infra.postgres import outbox
from infra.postgres.billing import load_stored_seqs
from infra.postgres.meter_builds import (
    Build,
    activate,
    load_build,
    load_passed,
    load_waiting,
    record_progress,
    start_counting,
)
from infra.postgres.pool import Database
from infra.settings import Settings
from infra.telemetry import configure_logging
from schemas.errors import Fenced
from schemas.topics import SystemEvent

POLL_SECONDS = 0.1  # between two looks at how far flows have come
MAX_BUILDS = 100  # of one pass over what is waiting

log = structlog.get_logger()

#: Called again and again while a step lasts; what it raises ends the step.
Beat = Callable[[], None]
Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildDoors:
    """What a build speaks to."""

    database: Database
    clickhouse: Client


def now() -> datetime:
    return datetime.now(UTC)


def nothing() -> None:
    """The beat of who is not watched."""


def wait_for_flows(doors: BuildDoors, build: Build, beat: Beat) -> dict[int, int]:
    """By shard, the last batch that the past is to be counted of, once every shard counts the revision live from the
    next one on and has stored all up to there. Waits as long as that takes. Raises Fenced when it is superseded.
    """
    passed: dict[int, int] | None = None
    while True:
        with doors.database.transaction() as connection:
            _check_building(load_build(connection, meter_id=build.meter_id, revision=build.meter.revision), build)
            if passed is None:
                passed = load_passed(connection, version=build.catalogue_version)
            if passed is not None:
                stored = load_stored_seqs(connection)
                if all(stored[shard] >= seq for shard, seq in passed.items()):
                    return passed
        beat()
        time.sleep(POLL_SECONDS)


def count(
    doors: BuildDoors,
    build: Build,
    *,
    seqs: Mapping[int, int],
    start: Hour | None,
    counted_before: int,
    at: datetime,
    progress: Callable[[int, Hour], None],
) -> int:
    """Count the past up to `seqs`, from the hour `start` on; how many facts there were, with the `counted_before`.

    Raises Fenced when the build is superseded, and what `progress` raises.
    """
    selection = Selection(tenant_no=build.tenant_no, event_type=build.meter.event_type, seqs=seqs)
    if start is None:
        total = count_facts(doors.clickhouse, selection)
        with doors.database.transaction() as connection:
            _check(start_counting(connection, build, total_events=total, now=at), build)

    def note(counted: int, place: Hour) -> None:
        with doors.database.transaction() as connection:
            _check(record_progress(connection, build, counted_events=counted_before + counted), build)
        crash_point("rebuild.progressed")
        progress(counted_before + counted, place)

    counted = count_past(doors.clickhouse, meter=build.meter, selection=selection, start=start, progress=note)
    return counted_before + counted


def switch(doors: BuildDoors, build: Build, *, at: datetime) -> None:
    """Have readers use the revision, in one step. Raises Fenced when it is superseded, or active already."""
    crash_point("rebuild.before_switch")
    with doors.database.transaction() as connection:
        meter = build.meter
        outbox.append(
            connection,
            tenant_id=build.tenant_id,
            event=SystemEvent.METER_REBUILT,
            object_id=build.meter_id,
            data={"id": build.meter_id, "revision": meter.revision, "reason": build.reason},
            now=at,
        )
        _check(activate(connection, build, now=at), build)
    crash_point("rebuild.switched")
    log.info("meter built", meter=build.meter_id, revision=meter.revision, reason=build.reason)


def build_one(doors: BuildDoors, build: Build, clock: Clock) -> bool:
    """All steps of a build, one after another; false when it was superseded meanwhile."""
    try:
        seqs = wait_for_flows(doors, build, nothing)
        count(doors, build, seqs=seqs, start=None, counted_before=0, at=clock(), progress=lambda _counted, _place: None)
        switch(doors, build, at=clock())
    except Fenced as reason:
        log.info("build ended", meter=build.meter_id, revision=build.meter.revision, reason=str(reason))
        return False
    return True


def build_waiting(doors: BuildDoors, clock: Clock = now) -> int:
    """Build what is waiting, the oldest first; how many were built. Flows must run, or have nothing to do."""
    with doors.database.transaction() as connection:
        waiting = load_waiting(connection, limit=MAX_BUILDS)
    return sum(build_one(doors, build, clock) for build in waiting)


def _check_building(found: Build | None, build: Build) -> None:
    _check(found is not None, build)


def _check(still_building: bool, build: Build) -> None:
    if not still_building:
        raise Fenced(
            "meter.not_building", f"revision {build.meter.revision} of meter {build.meter_id} is built or superseded"
        )


def main() -> int:
    """Build what is waiting, in the foreground."""
    settings = Settings()
    configure_logging(settings, service="builds")
    database = Database(settings.postgres_dsn, max_connections=2)
    clickhouse = connect_clickhouse(settings.clickhouse_url)
    try:
        built = build_waiting(BuildDoors(database=database, clickhouse=clickhouse))
    finally:
        clickhouse.close()
        database.close()
    log.info("builds done", meters=built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
