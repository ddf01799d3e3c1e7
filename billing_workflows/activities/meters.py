"""The activities of building and proving meters: thin wrappers of `flows.builds` and `flows.proving`, which are the
flow over the past.

This is the one place where a process imports another's package: what a meter makes of an event is decided by the very
functions of the flow, whether the event comes or has come.
"""

import time
from datetime import UTC, datetime, timedelta

from temporalio import activity

from billing_workflows.activities.beat import beating
from flows.builds import BuildDoors, count, switch, wait_for_flows
from flows.proving import ProofDoors, prove_page
from infra.clickhouse.client import Client
from infra.clickhouse.past import Hour
from infra.postgres.meter_builds import Build, load_build
from infra.postgres.pool import Database
from infra.settings import Settings
from schemas.errors import Fenced
from schemas.workflows import (
    COUNT_PAST,
    PROVE_PAGE,
    SWITCH_READERS,
    WAIT_FOR_FLOWS,
    BuildRequest,
    Built,
    CountRequest,
    Past,
    ProofPage,
    ProofRequest,
)

#: A proof rests so many times as long as it has worked, after each chunk: it reads all that comes once more for every
#: meter, which beside a full load took a microsecond of CPU an event.
REST_TIMES = 4
MAX_REST_SECONDS = 5


class MeterActivities:
    """Activities over one set of stores. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, database: Database, clickhouse: Client, settings: Settings) -> None:
        self._doors = BuildDoors(database=database, clickhouse=clickhouse)
        self._proofs = ProofDoors(
            database=database,
            clickhouse=clickhouse,
            full_after=timedelta(hours=settings.proof_full_hours),
            repairs=settings.proof_repairs,
        )

    @activity.defn(name=WAIT_FOR_FLOWS)
    def wait_for_flows(self, request: BuildRequest) -> Past:
        build = self._build(request)
        if build is None:
            return Past(superseded=True)
        with beating():
            try:
                seqs = wait_for_flows(self._doors, build, _stop_if_asked)
            except Fenced:
                return Past(superseded=True)
        return Past(seqs=list(seqs.items()))

    @activity.defn(name=COUNT_PAST)
    def count_past(self, request: CountRequest) -> Built:
        build = self._build(BuildRequest(meter_id=request.meter_id, revision=request.revision))
        if build is None:
            return Built(superseded=True)
        counted, start = _place(activity.info().heartbeat_details)
        with beating() as beat:

            def progress(counted_now: int, place: Hour) -> None:
                beat.details = (counted_now, place.customer_no, place.start)
                activity.heartbeat(*beat.details)
                _stop_if_asked()

            beat.details = () if start is None else (counted, start.customer_no, start.start)
            try:
                counted = count(
                    self._doors,
                    build,
                    seqs=dict(request.past.seqs),
                    start=start,
                    counted_before=counted,
                    at=datetime.now(UTC),
                    progress=progress,
                )
            except Fenced:
                return Built(superseded=True)
        return Built(counted_events=counted)

    @activity.defn(name=SWITCH_READERS)
    def switch_readers(self, request: BuildRequest) -> Built:
        build = self._build(request)
        if build is None:
            return Built(superseded=True)
        with beating():
            try:
                switch(self._doors, build, at=datetime.now(UTC))
            except Fenced:
                return Built(superseded=True)
        return Built()

    @activity.defn(name=PROVE_PAGE)
    def prove_page(self, request: ProofRequest) -> ProofPage:
        with beating():
            proven, after_no = prove_page(self._proofs, after_no=request.after_no, now=datetime.now(UTC), beat=_Rest())
        return ProofPage(proven=len(proven), drifted=sum(not each.proof.ok for each in proven), after_no=after_no or 0)

    def _build(self, request: BuildRequest) -> Build | None:
        with self._doors.database.transaction() as connection:
            return load_build(connection, meter_id=request.meter_id, revision=request.revision)


def _place(details: object) -> tuple[int, Hour | None]:
    """Where the attempt before has come to: events counted, and the hour to go on from."""
    match details:
        case [int(counted), int(customer_no), int(start)]:
            return counted, Hour(customer_no, start)
        case _:
            return 0, None


class _Rest:
    """The beat of work that nobody waits for: it leaves most of the time to what others wait for."""

    def __init__(self) -> None:
        self._resumed = time.monotonic()

    def __call__(self) -> None:
        _stop_if_asked()
        time.sleep(min((time.monotonic() - self._resumed) * REST_TIMES, MAX_REST_SECONDS))
        self._resumed = time.monotonic()


def _stop_if_asked() -> None:
    """Raise when the worker ends or the workflow was cancelled: the next attempt goes on from here."""
    if activity.is_worker_shutdown() or activity.is_cancelled():
        raise InterruptedError("the worker ends; the next attempt goes on from here")
