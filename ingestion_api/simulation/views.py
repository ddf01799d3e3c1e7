"""The answer of a simulation, as JSON and as a table."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres.pool import Row
from ingestion_api.simulation.body import SimulateBody
from ingestion_api.simulation.task import Task
from ingestion_api.views import Period
from pricing.simulation import Simulated
from schemas.errors import Reject
from schemas.money import EXACT, format_amount, format_decimal

CSV = "text/csv"
COLUMNS = ("customer", "customer_id", "currency", "simulated", "paid", "difference", "error")


class SimulatedLineView(TypedDict):
    """One price of the plan over the whole range."""

    key: str
    quantity: str
    amount: str


class SimulationError(TypedDict):
    """Why a customer's usage can't be priced by the plan."""

    code: str
    detail: str


class SimulatedCustomerView(TypedDict):
    """One customer. `paid`: the open and paid invoices' lines whose period begins in the range, less the invoices'
    discounts, before taxes and credits; `simulated` is the same of the plan, and null where `error` says why.
    `paid_in_other_currencies` can't be compared."""

    customer: str
    customer_id: str
    simulated: str | None
    paid: str
    difference: str | None
    paid_in_other_currencies: dict[str, str]
    lines: list[SimulatedLineView]
    error: SimulationError | None


class SimulationTotal(TypedDict):
    """The sums over the customers without an error; `failed` counts the others."""

    customers: int
    failed: int
    simulated: str
    paid: str
    difference: str


class SimulationView(TypedDict):
    """What a plan would have brought, beside what was invoiced. Every event acknowledged before `as_of` is in it."""

    object: Literal["simulation"]
    plan: str | None
    plan_version: int | None
    currency: str
    period: Period
    data: list[SimulatedCustomerView]
    total: SimulationTotal
    as_of: datetime | None


def to_view(body: SimulateBody, task: Task, outcomes: Mapping[str, Simulated | Reject]) -> SimulationView:
    """`outcomes` by customer id."""
    currency = task.plan.currency
    simulated = paid = Decimal(0)
    for customer_id, outcome in outcomes.items():
        if isinstance(outcome, Simulated):
            simulated = EXACT.add(simulated, outcome.amount)
            paid = EXACT.add(paid, task.history.paid_in(currency, customer_id))
    return {
        "object": "simulation",
        "plan": task.plan.key,
        "plan_version": task.plan.version,
        "currency": currency,
        "period": {"start": body.start, "end": body.end},
        "data": [_to_customer(task, customer, outcomes[customer["id"]]) for customer in task.customers],
        "total": {
            "customers": len(outcomes),
            "failed": sum(isinstance(outcome, Reject) for outcome in outcomes.values()),
            "simulated": format_amount(simulated, currency),
            "paid": format_amount(paid, currency),
            "difference": format_amount(EXACT.subtract(simulated, paid), currency),
        },
        "as_of": task.as_of,
    }


def _to_customer(task: Task, customer: Row, outcome: Simulated | Reject) -> SimulatedCustomerView:
    currency, customer_id = task.plan.currency, customer["id"]
    paid = task.history.paid_in(currency, customer_id)
    others = sorted(task.history.paid.get(customer_id, {}).items())
    is_priced = isinstance(outcome, Simulated)
    return {
        "customer": customer["external_id"],
        "customer_id": customer_id,
        "simulated": format_amount(outcome.amount, currency) if is_priced else None,
        "paid": format_amount(paid, currency),
        "difference": format_amount(EXACT.subtract(outcome.amount, paid), currency) if is_priced else None,
        "paid_in_other_currencies": {code: format_amount(sum_, code) for code, sum_ in others if code != currency},
        "lines": [
            {
                "key": line.key,
                "quantity": format_decimal(line.quantity),
                "amount": format_amount(line.amount, currency),
            }
            for line in (outcome.lines if is_priced else ())
        ],
        "error": None if is_priced else {"code": outcome.code, "detail": outcome.detail},
    }


def to_csv(answered: Response) -> Response:
    """The JSON answer as a table: a row a customer, the last one `total`."""
    view: SimulationView = msgspec.json.decode(answered.body)
    total = view["total"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in view["data"]:
        sums = (view["currency"], row["simulated"], row["paid"], row["difference"])
        writer.writerow((row["customer"], row["customer_id"], *sums, row["error"]["code"] if row["error"] else ""))
    writer.writerow(("total", "", view["currency"], total["simulated"], total["paid"], total["difference"], ""))
    headers = {name: value for name, value in answered.headers.items() if name.startswith("idempotent")}
    return Response(text.getvalue(), 200, headers, media_type=f"{CSV}; charset=utf-8")
