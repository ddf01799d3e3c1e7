"""The activity of checking invariants: a thin wrapper of `invariants.check`."""

from datetime import UTC, datetime, timedelta

from temporalio import activity

from billing_workflows.invariants import check
from infra.postgres.pool import Database
from infra.settings import Settings
from schemas.workflows import CHECK_INVARIANTS_PAGE, InvariantPlace


class InvariantActivities:
    """Activities over one store. They are synchronous: the worker runs them in its thread pool."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._full_after = timedelta(hours=settings.proof_full_hours)

    @activity.defn(name=CHECK_INVARIANTS_PAGE)
    def check_page(self, place: InvariantPlace) -> InvariantPlace:
        return check(self._database, place, full_after=self._full_after, now=datetime.now(UTC))
