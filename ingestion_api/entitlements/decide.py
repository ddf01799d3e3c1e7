"""Decisions for many (customer, feature) pairs at once: a handful of queries whatever their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from typing_extensions import TypedDict

from infra.clickhouse.client import Client
from infra.postgres import entitlements
from infra.postgres.pool import PgConnection, Row
from infra.settings import Settings
from ingestion_api.entitlements.terms import period_at
from ingestion_api.entitlements.used import Counters, Used, load_counters, measure_missing
from ingestion_api.views import Period
from pricing.entitlements import (
    FEATURE_OFF,
    FEATURE_ON,
    NO_ENTITLEMENT,
    SUBSCRIPTION_INACTIVE,
    Decision,
    Enforcement,
    EntitlementPeriod,
    Reason,
    check,
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
class _Candidate:
    row: Row
    decision: Decision
    used: Used | None
    period: EntitlementPeriod | None


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
    return basis_of(connection, questions, rows, now=now, settings=settings)


def basis_of(
    connection: PgConnection, questions: Sequence[Question], rows: Sequence[Row], *, now: datetime, settings: Settings
) -> Basis:
    """The same from the entitlements of these customers, in effect or not."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row["customer_id"], row["feature_id"]), []).append(row)
    metered = [(row, period_at(row, now)) for row in rows if row["type"] == "metered" and in_effect(row, now)]
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
        candidates = [
            _weigh(row, basis.periods.get(row["no"]), used.get(row["no"]), question.quantity)
            for row in own
            if in_effect(row, now)
        ]
        if candidates:
            answers.append(_view(question, max(candidates, key=_generosity), now))
        else:
            answers.append(_refusal(question, SUBSCRIPTION_INACTIVE if own else NO_ENTITLEMENT, now))
    return answers


def in_effect(row: Row, now: datetime) -> bool:
    """Whether an entitlement holds at an instant."""
    return row["starts_at"] <= now and (row["ends_at"] is None or now < row["ends_at"])


def _weigh(
    row: Row,
    period: EntitlementPeriod | None,
    used: Used | None,
    quantity: Decimal | None,
) -> _Candidate:
    match row["type"]:
        case "boolean":
            return _Candidate(row=row, decision=FEATURE_ON if row["value"] else FEATURE_OFF, used=None, period=None)
        case "static":
            return _Candidate(row=row, decision=FEATURE_ON, used=None, period=None)
        case _:
            assert used is not None, "a metered entitlement in effect has a period, and usage in it"
            decision = check(
                limit=row["limit_quantity"],
                used=used.quantity,
                quantity=quantity,
                enforcement=Enforcement(row["enforcement"]),
            )
            return _Candidate(row=row, decision=decision, used=used, period=period)


def _generosity(candidate: _Candidate) -> tuple[bool, bool, Decimal, int]:
    """With several subscriptions in effect the customer has the best of them; the newest of equals."""
    remaining = candidate.decision.remaining
    return candidate.decision.allowed, remaining is None, remaining or Decimal(0), candidate.row["no"]


def _view(question: Question, best: _Candidate, now: datetime) -> CheckView:
    row, decision, period = best.row, best.decision, best.period
    view = _refusal(question, decision, now)
    if period is None:
        return {**view, "value": row["value"], "subscription": row["subscription_id"]}
    assert best.used is not None, "a metered answer has usage"
    return {
        **view,
        "limit": _text(row["limit_quantity"]),
        "used": format_decimal(best.used.quantity),
        "reserved": "0",
        "remaining": _text(decision.remaining),
        "overage": format_decimal(decision.overage),
        "enforcement": Enforcement(row["enforcement"]),
        "period": {"start": period.start, "end": period.end},
        "subscription": row["subscription_id"],
        "as_of": best.used.fresh.as_of,
        "lag_seconds": best.used.fresh.lag_seconds,
    }


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
