"""What a simulation is asked."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from ingestion_api.control.versions import MAX_VERSION_NUMBER
from ingestion_api.fields import Body, Instant, Reference, Timezone

MAX_CUSTOMERS = 10_000


def _check_plan(value: object) -> object:
    if not isinstance(value, str | dict):
        raise ValueError("must be a plan's key or id, or the body of a plan: currency and prices")
    return value


PlanGiven = Annotated[
    Any,
    BeforeValidator(_check_plan),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "object"}],
            "description": "A plan's key or id, or a body as of POST /v1/plans: `currency` and `prices`.",
        }
    ),
]


class SimulateBody(Body):
    """The customers by external_id or id; all that are not archived when absent. Periods are counted from `from`, in
    each customer's timezone or, if given, in `timezone`."""

    plan: PlanGiven
    plan_version: Annotated[int, Field(ge=1, le=MAX_VERSION_NUMBER)] | None = None
    start: Annotated[Instant, Field(alias="from")]
    end: Annotated[Instant, Field(alias="to")]
    timezone: Timezone | None = None
    customers: Annotated[list[Reference], Field(max_length=MAX_CUSTOMERS)] | None = None
