"""The activities of the sweep: thin wrappers that open doors, keep the heartbeat and translate messages."""

from temporalio import activity

from billing_workflows.activities.beat import beating
from billing_workflows.billing import Doors, bill_chunk, load_due_page
from schemas.instants import parse_instant
from schemas.workflows import BILL_CHUNK, LOAD_DUE_PAGE, ChunkRequest, ChunkResult, DuePage, DuePageRequest


class BillingActivities:
    """Activities over one set of doors. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    @activity.defn(name=LOAD_DUE_PAGE)
    def load_due_page(self, request: DuePageRequest) -> DuePage:
        after_at = parse_instant(request.after_at) if request.after_id else None
        return load_due_page(self._doors, now=parse_instant(request.now), after_at=after_at, after_id=request.after_id)

    @activity.defn(name=BILL_CHUNK)
    def bill_chunk(self, request: ChunkRequest) -> ChunkResult:
        with beating():
            return bill_chunk(self._doors, request.subscription_ids, now=parse_instant(request.now))
