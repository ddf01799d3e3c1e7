"""The activities of the sweep: thin wrappers that open doors, keep the heartbeat and translate messages."""

from temporalio import activity

from billing_workflows.activities.beat import beating
from billing_workflows.doors import Doors
from billing_workflows.due import load_page, run_chunk
from infra.postgres.due import Due, Moment
from schemas.instants import parse_instant
from schemas.workflows import BILL_CHUNK, LOAD_DUE_PAGE, ChunkRequest, ChunkResult, DuePage, DuePageRequest


class BillingActivities:
    """Activities over one set of doors. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    @activity.defn(name=LOAD_DUE_PAGE)
    def load_due_page(self, request: DuePageRequest) -> DuePage:
        after = Due(parse_instant(request.after_at), request.after_id) if request.after_id else None
        return load_page(self._doors, request.kind, Moment(now=parse_instant(request.now)), after=after)

    @activity.defn(name=BILL_CHUNK)
    def bill_chunk(self, request: ChunkRequest) -> ChunkResult:
        with beating():
            return run_chunk(self._doors, request.kind, request.ids, Moment(now=parse_instant(request.now)))
