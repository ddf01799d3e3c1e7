"""Decisions for many (customer, feature) pairs at once: a handful of queries whatever their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from typing_extensions import TypedDict

from infra.clickhouse.client import Client
from infra.postgres import entitlements
from infra.postgres.pool import PgConnection, Row
from infra.settings import Settings
from ingestion_api.clock import clock_nows
from ingestion_api.entitlements.terms import period_at
from ingestion_api.entitlements.used import Counters, Used, load_counters, measure_missing
from ingestion_api.fields import MAX_INSTANT, MIN_INSTANT
from ingestion_api.views import Period
from pricing.entitlements import (
    FEATURE_OFF,
    FEATURE_ON,
    NO_ENTITLEMENT,
    SUBSCRIPTION_INACTIVE,
    Allowance,
    Decision,
    Enforcement,
    EntitlementPeriod,
    Reason,
    check,
    stack,
)
from schemas.money import format_decimal


class CheckView(TypedDict):
    """A decision and what it rests on. Every event acknowledged before `as_of` is in `used`; `as_of` is null while
    nothing can be said of that, before the first event was stored. When no store that knows what is used answers, a
    check is no decision but 503 `store.unavailable`: whoever asks chooses whether to go on without one.

    `limit` and `remaining` are null when there is no limit; `value` is that of a boolean or static feature.
    """

    object: Literal["entitlement_check"]
    customer: str
    feature: str
    type: Literal["metered", "boolean", "static"]
    allowed: bool
    reason: Reason
    value: Any
    limit: str | None
    used: str | None
    reserved: str | None
    remaining: str | None
    overage: str | None
    enforcement: Enforcement | None
    period: Period | None
    subscription: str | None
    as_of: datetime | None
    lag_seconds: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May this customer use so much more of this feature? `customer`: id and external_id, `feature`: id, key, type."""

    customer: Row
    feature: Row
    quantity: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What PostgreSQL says of the questions: enough to answer them without a transaction."""

    questions: Sequence[Question]
    rows: dict[tuple[str, str], list[Row]]  # by customer and feature, in effect or not
    periods: dict[int, EntitlementPeriod]
    counters: Counters


def load_basis(
    connection: PgConnection, questions: Sequence[Question], *, tenant_id: str, now: datetime, settings: Settings
) -> Basis:
    """All that is stored of the entitlements that are asked for."""
    rows = entitlements.load_of_customers(
        connection,
        tenant_id=tenant_id,
        customer_ids=sorted({question.customer["id"] for question in questions}),
        feature_ids=sorted({question.feature["id"] for question in questions}),
    )
    return basis_of(connection, questions, at_their_now(connection, rows, now), now=now, settings=settings)


def at_their_now(connection: PgConnection, rows: Sequence[Row], now: datetime) -> list[Row]:
    """Entitlements with the `now` of their customers: that of a test clock, or the real one."""
    nows = clock_nows(connection, {row["test_clock_id"] for row in rows}, now)
    return [{**row, "now": nows[row["test_clock_id"]]} for row in rows]


def basis_of(
    connection: PgConnection, questions: Sequence[Question], rows: Sequence[Row], *, now: datetime, settings: Settings
) -> Basis:
    """The same from the entitlements of these customers, in effect or not, of `at_their_now`."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row["customer_id"], row["feature_id"]), []).append(row)
    metered = [(row, period_at(row, row["now"])) for row in rows if row["type"] == "metered" and in_effect(row)]
    return Basis(
        questions=questions,
        rows=by_pair,
        periods={row["no"]: period for row, period in metered},
        counters=load_counters(connection, metered, now=now, settings=settings),
    )


def decide(clickhouse: Client, basis: Basis, *, tenant_no: int, now: datetime) -> list[CheckView]:
    """The answers, in order. ClickHouse is asked only for what no counter holds; hold no transaction. Raises what it
    raises: one entitlement that can't be judged leaves all unanswered."""
    used = measure_missing(clickhouse, basis.counters, tenant_no=tenant_no)
    answers: list[CheckView] = []
    for question in basis.questions:
        own = basis.rows.get((question.customer["id"], question.feature["id"]), [])
        present = sorted((row for row in own if in_effect(row)), key=_rank)
        if not present:
            answers.append(_refusal(question, SUBSCRIPTION_INACTIVE if own else NO_ENTITLEMENT, now))
        elif question.feature["type"] == "metered":
            answers.append(_weigh(question, present, basis.periods, used, now))
        else:
            answers.append(_look_up(question, present, now))
    return answers


def _rank(row: Row) -> tuple[str, bool, int]:
    """Later ones say more: a later subscription's, and in one an add-on's."""
    return row["subscription_id"], row["source"] != "plan", row["no"]


def in_effect(row: Row) -> bool:
    """Whether an entitlement holds at its customer's `now`, which is in the row."""
    now, until = row["now"], row["holds_until"]
    return row["effective_at"] <= now and (until is None or now < until)


def _weigh(
    question: Question, rows: Sequence[Row], periods: Mapping[int, EntitlementPeriod], used: Mapping[int, Used],
    now: datetime,
) -> CheckView:  # fmt: skip
    """The answer for a metered feature: what subscriptions and add-ons give adds up. The period shown is the one that
    ends first."""
    allowances = [
        Allowance(
            limit=row["limit_quantity"],
            used=used[row["no"]].quantity,
            since=periods[row["no"]].start,
            enforcement=Enforcement(row["enforcement"]),
        )
        for row in rows
    ]
    whole = stack(allowances)
    decision = check(limit=whole.limit, used=whole.used, quantity=question.quantity, enforcement=whole.enforcement)
    period = min((periods[row["no"]] for row in rows), key=lambda period: period.end or MAX_INSTANT)
    fresh = min((used[row["no"]].fresh for row in rows), key=lambda fresh: fresh.as_of or MIN_INSTANT)
    return {
        **_refusal(question, decision, now),
        "limit": _text(whole.limit),
        "used": format_decimal(whole.used),
        "reserved": "0",
        "remaining": _text(decision.remaining),
        "overage": format_decimal(decision.overage),
        "enforcement": whole.enforcement,
        "period": {"start": period.start, "end": period.end},
        "subscription": rows[-1]["subscription_id"],
        "as_of": fresh.as_of,
        "lag_seconds": fresh.lag_seconds,
    }


def _look_up(question: Question, rows: Sequence[Row], now: datetime) -> CheckView:
    """The answer for a boolean, which is on when one says so, or for a static feature, of which the last one holds."""
    row = rows[-1]
    if question.feature["type"] == "boolean":
        row = next((each for each in reversed(rows) if each["value"]), row)
    on = question.feature["type"] == "static" or row["value"]
    view = _refusal(question, FEATURE_ON if on else FEATURE_OFF, now)
    return {**view, "value": row["value"], "subscription": row["subscription_id"]}


def _refusal(question: Question, decision: Decision, now: datetime) -> CheckView:
    """What an answer says that rests on no counter: it is as of now."""
    return {
        "object": "entitlement_check",
        "customer": question.customer["external_id"],
        "feature": question.feature["key"],
        "type": question.feature["type"],
        "allowed": decision.allowed,
        "reason": decision.reason,
        "value": None,
        "limit": None,
        "used": None,
        "reserved": None,
        "remaining": None,
        "overage": None,
        "enforcement": None,
        "period": None,
        "subscription": None,
        "as_of": now,
        "lag_seconds": Decimal(0),
    }


def _text(number: Decimal | None) -> str | None:
    return None if number is None else format_decimal(number)
