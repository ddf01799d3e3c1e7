"""The advance of a test clock, step by step: move to what is due next, do it, and so on up to the end.

Plain functions over open doors. All that an advance has come to stands in PostgreSQL, so a step may be done again by
anybody after a crash anywhere: the clock's row says where it is, and what is done is no longer due.

A clock that is ready stands still, and yet things become due at what it shows: a new subscription opens with fees.
Those steps are the same, and the clock does not move.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog

from billing_workflows.doors import Doors
from billing_workflows.due import KINDS, Kind, run_all
from infra.crash_points import crash_point
from infra.postgres import outbox, test_clocks
from infra.postgres.due import Moment
from infra.postgres.pool import Database, PgConnection
from infra.postgres.shards import usage_as_of
from infra.postgres.test_clocks import Clock
from schemas.topics import SystemEvent
from schemas.workflows import ChunkResult

MAX_STEPS = 200  # of one activity
MAX_CLOCKS = 100  # that are worked at at once
MAX_READY = 500  # that are asked at once whether something is due

log = structlog.get_logger()


class Progress(StrEnum):
    DONE = "done"  # nothing is due any more, and the clock is ready
    MORE = "more"
    WAITING = "waiting"  # for events to be stored, or for a meter to be built


def advance(
    doors: Doors, clock_id: str, *, since: datetime, read_now: Callable[[], datetime], go_on: Callable[[], bool]
) -> Progress:
    """Take up to MAX_STEPS steps, while `go_on`. `since` is the real instant at which somebody saw that there is work:
    every event acknowledged before it is counted first."""
    for _ in range(MAX_STEPS):
        if not go_on():
            break
        progress = _step(doors, clock_id, since, read_now())
        if progress is not Progress.MORE:
            return progress
    return Progress.MORE


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockWork:
    """A clock that has something to do. `reason` is another word for every advance."""

    tenant_id: str
    reason: str


def find_work(database: Database, *, after_id: str) -> tuple[dict[str, ClockWork], str]:
    """The clocks that have something to do, by id. Of those that are ready MAX_READY are looked at, beyond `after_id`;
    the second answer is where the next call goes on."""
    with database.transaction() as connection:
        advancing = test_clocks.load_advancing(connection, limit=MAX_CLOCKS)
        ready = test_clocks.load_ready(connection, after_id=after_id, limit=MAX_READY)
        due = {kind.name: kind.earliest(connection, list(ready)) for kind in KINDS} if ready else {}
    work = {clock.id: ClockWork(tenant_id=clock.tenant_id, reason=str(clock.catalogue_version)) for clock in advancing}
    for of_kind in due.values():
        found = [ready[clock_id] for clock_id, at in of_kind.items() if at <= ready[clock_id].now]
        work |= {clock.id: ClockWork(tenant_id=clock.tenant_id, reason="ready") for clock in found}
    following = next(reversed(ready)) if len(ready) == MAX_READY else ""
    return dict(list(work.items())[:MAX_CLOCKS]), following


def _step(doors: Doors, clock_id: str, since: datetime, now: datetime) -> Progress:
    with doors.database.transaction() as connection:
        clock = test_clocks.load_working(connection, clock_id)
        if clock is None:
            return Progress.DONE
        if not _is_usage_complete(doors, connection, clock, since, now):
            return Progress.WAITING
        due = _earliest(connection, clock)
        first = min(due.values(), default=None)
        if first is None or first > clock.until:
            return _finish(connection, clock, now)
        at = max(first, clock.now)
        if at > clock.now and not test_clocks.move(connection, clock=clock, to=at):
            return Progress.MORE
    crash_point("clock.moved")
    moment = Moment(now=at, clock_id=clock.id)
    results = [
        result
        for kind in KINDS
        if kind.name in due and due[kind.name] <= at
        for result in run_all(doors, kind.name, moment)
    ]
    crash_point("clock.worked")
    return Progress.MORE if any(_has_changed(result) for result in results) else Progress.WAITING


def _earliest(connection: PgConnection, clock: Clock) -> dict[str, datetime]:
    def of(kind: Kind) -> datetime | None:
        return kind.earliest(connection, [clock.id]).get(clock.id)

    return {kind.name: at for kind in KINDS if (at := of(kind)) is not None}


def _is_usage_complete(doors: Doors, connection: PgConnection, clock: Clock, since: datetime, now: datetime) -> bool:
    """Whether all that was sent before the advance is counted: first what was ahead of the clock and no longer is goes
    onto the log once more, then the flows store everything up to there."""
    usage_from = since
    if clock.advance_to is not None:
        if clock.replayed_at is None:
            if test_clocks.is_replayed(connection, version=clock.catalogue_version):
                test_clocks.record_replayed(connection, clock=clock, now=now)
            return False
        usage_from = max(since, clock.replayed_at)
    as_of = usage_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions)
    return as_of is not None and as_of >= usage_from


def _finish(connection: PgConnection, clock: Clock, now: datetime) -> Progress:
    """Nothing is due up to the end: the clock shows it."""
    if clock.advance_to is None:
        return Progress.DONE
    row = test_clocks.finish_advance(connection, clock=clock)
    if row is None:
        return Progress.MORE
    outbox.append(
        connection,
        tenant_id=clock.tenant_id,
        event=SystemEvent.TEST_CLOCK_READY,
        object_id=clock.id,
        data={"object": "test_clock", "id": clock.id, "name": row["name"], "now": row["now"], "status": "ready"},
        now=now,
    )
    log.info("test clock is ready", clock=clock.id)
    return Progress.DONE


def _has_changed(result: ChunkResult) -> bool:
    return bool(result.invoices or result.statements or result.done or result.parked)
