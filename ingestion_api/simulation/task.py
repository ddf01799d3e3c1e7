"""A simulation: first all that PostgreSQL says, in one short transaction; then usage and prices, chunk by chunk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, cast

from infra.clickhouse.client import Client
from infra.clickhouse.metering import batches, measure
from infra.postgres import simulation as store
from infra.postgres.billing import load_meters
from infra.postgres.meters import complete_until
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import usage_as_of
from ingestion_api.auth import Principal
from ingestion_api.context import Context
from ingestion_api.control.plan_terms import read_prices
from ingestion_api.control.versions import MAX_PRICES
from ingestion_api.control.versions import find as find_plan
from ingestion_api.simulation.body import MAX_CUSTOMERS, SimulateBody
from pricing.fields import INVALID_FIELD, Fields
from pricing.simulation import Scenario, Simulated, invoiced_within, make_scenario, scenario_needs, simulate
from schemas.billing import BilledSubscription, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import NotFound, Reject
from schemas.money import EXACT, currency_exponent, format_decimal, from_minor

MAX_INVOICES = 400_000  # of all customers together: some minutes of pricing
CUSTOMERS_A_CHUNK = 500
PLAN_FIELDS = ("key", "name", "entitlements", "metadata")  # of a plan's body, that say nothing of its prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated. `key` and `version` are those of a stored plan."""

    key: str | None
    version: int | None
    currency: str
    prices: list[dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class History:
    """By customer id: the quantities of fixed prices, and what was invoiced, by currency."""

    quantities: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    paid: dict[str, dict[str, Decimal]] = field(default_factory=dict[str, dict[str, Decimal]])

    def paid_in(self, currency: str, customer_id: str) -> Decimal:
        return self.paid.get(customer_id, {}).get(currency, Decimal(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that PostgreSQL says of a simulation: what is needed to measure and price it without a transaction."""

    plan: Plan
    customers: Sequence[Row]
    scenarios: Mapping[str, Scenario]  # by customer id; customers with the same terms share one
    meters: Mapping[tuple[str, str], MeterEntry]
    history: History
    as_of: datetime | None


def load_task(context: Context, body: SimulateBody, principal: Principal) -> Task:
    """Raises NotFound and Reject for what can't be simulated."""
    settings, tenant_id = context.settings, principal.tenant_id
    with context.database.transaction() as connection:
        plan = _find_plan(connection, body, tenant_id)
        customers = _find_customers(connection, body.customers, tenant_id)
        history = _load_history(connection, [row["id"] for row in customers], body.start, body.end)
        scenarios = _make_scenarios(body, plan, customers, history, principal)
        stored_until = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
        meters = load_meters(connection, [tenant_id])
        named = [meters.get((tenant_id, str(price.get("meter")))) for price in plan.prices]
        return Task(
            plan=plan,
            customers=customers,
            scenarios=scenarios,
            meters=meters,
            history=history,
            as_of=complete_until(
                connection, meter_nos=[meter.meter_no for meter in named if meter], as_of=stored_until
            ),
        )


def run_task(clickhouse: Client, task: Task) -> Iterator[tuple[str, Simulated | Reject]]:
    """What each customer would have paid, by id, or why that can't be said. One measurement a batch."""
    numbers = {row["id"]: row["no"] for row in task.customers}
    for ids in _chunks(list(numbers)):
        needs = {
            customer_id: scenario_needs(
                task.scenarios[customer_id], task.meters, customer_id=customer_id, customer_no=numbers[customer_id]
            )
            for customer_id in ids
        }
        for batch in batches(needs):
            yield from _run_batch(clickhouse, task, {customer_id: needs[customer_id] for customer_id in batch})


def _run_batch(
    clickhouse: Client, task: Task, needs: Mapping[str, Sequence[UsageNeed]]
) -> Iterator[tuple[str, Simulated | Reject]]:
    """Customers who can't be measured together are measured one by one: then it is known whose usage is too much."""
    try:
        usage = measure(clickhouse, [need for own in needs.values() for need in own]).usage
    except Reject as error:
        if len(needs) == 1:
            yield from ((customer_id, error) for customer_id in needs)
            return
        for customer_id, own in needs.items():
            yield from _run_batch(clickhouse, task, {customer_id: own})
        return
    for customer_id in needs:
        try:
            yield customer_id, simulate(task.scenarios[customer_id], usage, customer_id=customer_id)
        except Reject as error:
            yield customer_id, error


def _find_plan(connection: PgConnection, body: SimulateBody, tenant_id: str) -> Plan:
    """The stored plan, or the one given. Raises NotFound and what making a plan raises, under `/plan`."""
    if isinstance(body.plan, str):
        row = find_plan(connection, tenant_id, body.plan, body.plan_version)
        return Plan(key=row["key"], version=row["version"], currency=row["currency"], prices=row["prices"])
    if body.plan_version is not None:
        raise Reject.at("/plan_version", "request.invalid_field", "Only a plan that is named has versions.")
    fields = Fields(body.plan, "/plan")
    currency = fields.currency("currency")
    given = fields.take("prices") if fields.has("prices") else []
    if not isinstance(given, list) or len(prices := cast("list[Any]", given)) > MAX_PRICES:
        raise fields.wrong("prices", INVALID_FIELD, f"must be a list of at most {MAX_PRICES} prices")
    for name in PLAN_FIELDS:
        if fields.has(name):
            fields.take(name)
    fields.done()
    try:
        stored = read_prices(connection, prices, tenant_id=tenant_id, currency=currency)
    except Reject as reject:
        raise reject.under("/plan") from None
    return Plan(key=None, version=None, currency=currency, prices=stored)


def _find_customers(connection: PgConnection, references: Sequence[str] | None, tenant_id: str) -> Sequence[Row]:
    """The customers, each once. Raises NotFound for a name that nobody has, Reject when there are too many."""
    rows = store.load_population(connection, tenant_id=tenant_id, references=references, limit=MAX_CUSTOMERS + 1)
    if references is None:
        if len(rows) > MAX_CUSTOMERS:
            detail = f"There are more than {MAX_CUSTOMERS} customers: name those that you ask for."
            raise Reject.at("/customers", "pricing.too_many_customers", detail)
        return rows
    by_name = {row["external_id"]: row for row in rows} | {row["id"]: row for row in rows}
    unknown = next((name for name in references if name not in by_name), None)
    if unknown is not None:
        raise NotFound("customer.not_found", f"There is no customer {unknown!r}.")
    return list({by_name[name]["id"]: by_name[name] for name in references}.values())


def _load_history(connection: PgConnection, customer_ids: Sequence[str], start: datetime, end: datetime) -> History:
    history = History()
    for ids in _chunks(customer_ids):
        for row in store.load_quantities(connection, customer_ids=ids, start=start, end=end):
            history.quantities.setdefault(row["customer_id"], {})[row["key"]] = format_decimal(row["quantity"])
        for row in store.load_invoiced(connection, customer_ids=ids, start=start, end=end):
            currency = row["currency"]
            amount = invoiced_within(
                [from_minor(minor, currency) for minor in row["amounts_minor"]],
                row["within"],
                from_minor(row["discount_minor"], currency),
                currency_exponent(currency),
            )
            paid = history.paid.setdefault(row["customer_id"], {})
            paid[currency] = EXACT.add(paid.get(currency, Decimal(0)), amount)
    return history


def _make_scenarios(
    body: SimulateBody, plan: Plan, customers: Sequence[Row], history: History, principal: Principal
) -> dict[str, Scenario]:
    """A scenario for each customer. Raises Reject when all of them together are too much for one request."""
    fixed = {price["key"] for price in plan.prices if price["type"] == "fixed"}
    known: dict[tuple[Any, ...], Scenario] = {}
    scenarios: dict[str, Scenario] = {}
    for customer in customers:
        timezone = body.timezone or customer["timezone"]
        own = history.quantities.get(customer["id"], {})
        quantities = {key: own[key] for key in sorted(own) if key in fixed}
        terms = (timezone, *quantities.items())
        if terms not in known:
            known[terms] = make_scenario(_subscription(body, plan, timezone, quantities, principal))
        scenarios[customer["id"]] = known[terms]
    if sum(len(scenario.statements) for scenario in scenarios.values()) > MAX_INVOICES:
        detail = f"More than {MAX_INVOICES} invoices would be priced: ask for fewer customers, or a shorter range."
        raise Reject.at("/customers", "pricing.simulation_too_large", detail)
    return scenarios


def _subscription(
    body: SimulateBody, plan: Plan, timezone: str, quantities: dict[str, str], principal: Principal
) -> BilledSubscription:
    """A subscription to the plan from the start to the end of the range, of no customer yet."""
    return BilledSubscription(
        id="",
        row_version="",
        tenant_id=principal.tenant_id,
        tenant_no=principal.tenant_no,
        customer_id="",
        customer_no=0,
        external_id="",
        plan_id=plan.key or "",
        plan_version=plan.version or 0,
        prices=plan.prices,
        status="active",
        currency=plan.currency,
        timezone=timezone,
        start_at=body.start,
        billing_anchor=body.start,
        alignment="anniversary",
        quantities=quantities,
        price_overrides={},
        discounts=[],
        commitment=None,
        end_at=body.end,
        cancel_at=None,
        cancel_proration=False,
        billed_until=None,
        next_bill_at=body.start,
    )


def _chunks(customer_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(customer_ids), CUSTOMERS_A_CHUNK):
        yield customer_ids[first : first + CUSTOMERS_A_CHUNK]
