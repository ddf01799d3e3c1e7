"""The route of simulations."""

from fastapi import Request
from starlette.responses import Response

from ingestion_api.context import FromContext
from ingestion_api.control.preview import answer_unheld
from ingestion_api.idempotency import ReadCall
from ingestion_api.routing import house_router
from ingestion_api.simulation.body import SimulateBody
from ingestion_api.simulation.task import load_task, run_task
from ingestion_api.simulation.views import CSV, SimulationView, to_csv, to_view
from schemas.errors import Reject

router = house_router("pricing")


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
        task = load_task(context, body, call.principal)
        return to_view(body, task, dict(run_task(context.clickhouse, task)))

    answered = answer_unheld(call, effect)
    return to_csv(answered) if answered.status_code == 200 and CSV in request.headers.get("accept", "") else answered
