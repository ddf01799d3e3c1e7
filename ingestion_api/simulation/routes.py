"""The route of simulations."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import BoundedSemaphore

from fastapi import Request
from starlette.responses import Response

from ingestion_api.context import FromContext
from ingestion_api.control.preview import answer_unheld
from ingestion_api.idempotency import ReadCall
from ingestion_api.routing import house_router
from ingestion_api.simulation.body import SimulateBody
from ingestion_api.simulation.task import load_task, run_task
from ingestion_api.simulation.views import CSV, SimulationView, to_csv, to_view
from schemas.errors import Reject, Retry

MAX_RUNNING = 2  # simulations of one process: each may keep a processor busy for half a minute
RETRY_SECONDS = 10

router = house_router("pricing")

_running = BoundedSemaphore(MAX_RUNNING)


@router.post(
    "/v1/pricing/simulate",
    response_model=SimulationView,
    operation_id="simulate_plan",
    responses={200: {"content": {CSV: {"schema": {"type": "string"}}}}},
)
def simulate_plan(body: SimulateBody, call: ReadCall, context: FromContext, request: Request) -> Response:
    """What customers would have paid under a plan from `from` to `to` on their stored usage, beside what they did pay:
    per customer and in total. As a table for spreadsheets with `Accept: text/csv`."""
    if body.end <= body.start:
        raise Reject.at("/to", "pricing.invalid_period", "The end must be later than the start.")

    def effect() -> SimulationView:
        with _one_of_few():
            task = load_task(context, body, call.principal)
            return to_view(body, task, dict(run_task(context.clickhouse, task)))

    answered = answer_unheld(call, effect)
    return to_csv(answered) if answered.status_code == 200 and CSV in request.headers.get("accept", "") else answered


@contextmanager
def _one_of_few() -> Generator[None]:
    """Raises Retry while MAX_RUNNING others run: other requests need threads and processors too."""
    if not _running.acquire(blocking=False):
        detail = f"{MAX_RUNNING} simulations are running; try again when one is done."
        raise Retry("pricing.simulations_busy", detail, retry_after_seconds=RETRY_SECONDS)
    try:
        yield
    finally:
        _running.release()
