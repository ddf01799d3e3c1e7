"""Decisions for many (customer, feature) pairs at once: a handful of queries whatever their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from typing_extensions import TypedDict

from infra.postgres import entitlements
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import counters_as_of
from infra.settings import Settings
from ingestion_api.entitlements.terms import period_at
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

MILLISECOND = Decimal("0.001")


class CheckView(TypedDict):
    """A decision and what it rests on. Every event acknowledged before `as_of` is in `used`.

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
class Freshness:
    """As of when the counters are complete, and how long ago that is; None before the first event."""

    as_of: datetime | None
    lag_seconds: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    row: Row
    decision: Decision
    used: Decimal | None
    period: EntitlementPeriod | None


def decide(
    connection: PgConnection, questions: Sequence[Question], *, tenant_id: str, now: datetime, settings: Settings
) -> list[CheckView]:
    """The answers, in order."""
    rows = entitlements.load_of_customers(
        connection,
        tenant_id=tenant_id,
        customer_ids=sorted({question.customer["id"] for question in questions}),
        feature_ids=sorted({question.feature["id"] for question in questions}),
    )
    return answer_from(connection, questions, rows, now=now, settings=settings)


def answer_from(
    connection: PgConnection, questions: Sequence[Question], rows: Sequence[Row], *, now: datetime, settings: Settings
) -> list[CheckView]:
    """The answers from the entitlements of these customers, in effect or not."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row["customer_id"], row["feature_id"]), []).append(row)
    periods = {row["no"]: period_at(row, now) for row in rows if row["type"] == "metered" and in_effect(row, now)}
    used = entitlements.load_used(connection, [(no, period.start) for no, period in periods.items()])
    fresh = freshness(connection, now=now, settings=settings) if periods else None
    answers: list[CheckView] = []
    for question in questions:
        own = by_pair.get((question.customer["id"], question.feature["id"]), [])
        candidates = [
            _weigh(row, periods.get(row["no"]), used, question.quantity) for row in own if in_effect(row, now)
        ]
        if candidates:
            answers.append(_view(question, max(candidates, key=_generosity), fresh, now))
        else:
            answers.append(_refusal(question, SUBSCRIPTION_INACTIVE if own else NO_ENTITLEMENT, now))
    return answers


def in_effect(row: Row, now: datetime) -> bool:
    """Whether an entitlement holds at an instant."""
    return row["starts_at"] <= now and (row["ends_at"] is None or now < row["ends_at"])


def freshness(connection: PgConnection, *, now: datetime, settings: Settings) -> Freshness:
    """As of when the counters are."""
    as_of = counters_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    if as_of is None:
        return Freshness(as_of=None, lag_seconds=None)
    microseconds = max(0, (now - as_of) // datetime.resolution)
    return Freshness(as_of=as_of, lag_seconds=(Decimal(microseconds) / 1_000_000).quantize(MILLISECOND))


def _weigh(
    row: Row,
    period: EntitlementPeriod | None,
    counters: dict[tuple[int, datetime], Decimal],
    quantity: Decimal | None,
) -> _Candidate:
    match row["type"]:
        case "boolean":
            return _Candidate(row=row, decision=FEATURE_ON if row["value"] else FEATURE_OFF, used=None, period=None)
        case "static":
            return _Candidate(row=row, decision=FEATURE_ON, used=None, period=None)
        case _:
            assert period is not None, "a metered entitlement in effect has a period"
            used = counters.get((row["no"], period.start), Decimal(0))
            decision = check(
                limit=row["limit_quantity"],
                used=used,
                quantity=quantity,
                enforcement=Enforcement(row["enforcement"]),
            )
            return _Candidate(row=row, decision=decision, used=used, period=period)


def _generosity(candidate: _Candidate) -> tuple[bool, bool, Decimal, int]:
    """With several subscriptions in effect the customer has the best of them; the newest of equals."""
    remaining = candidate.decision.remaining
    return candidate.decision.allowed, remaining is None, remaining or Decimal(0), candidate.row["no"]


def _view(question: Question, best: _Candidate, fresh: Freshness | None, now: datetime) -> CheckView:
    row, decision, period = best.row, best.decision, best.period
    view = _refusal(question, decision, now)
    if period is None:
        return {**view, "value": row["value"], "subscription": row["subscription_id"]}
    assert fresh is not None, "a metered answer is as of an instant"
    assert best.used is not None, "a metered answer has usage"
    return {
        **view,
        "limit": _text(row["limit_quantity"]),
        "used": format_decimal(best.used),
        "reserved": "0",
        "remaining": _text(decision.remaining),
        "overage": format_decimal(decision.overage),
        "enforcement": Enforcement(row["enforcement"]),
        "period": {"start": period.start, "end": period.end},
        "subscription": row["subscription_id"],
        "as_of": fresh.as_of,
        "lag_seconds": fresh.lag_seconds,
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
