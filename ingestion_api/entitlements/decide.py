"""Decisions for many (customer, feature) pairs at once: a handful of queries whatever their number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Any, Literal

import structlog
from typing_extensions import TypedDict

from infra.clickhouse.client import ClickHouseError
from infra.metrics import CHECKS_DEGRADED
from infra.postgres import entitlements
from infra.postgres.holds import HoldKey, load_reserved
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import counters_as_of
from infra.settings import Settings
from ingestion_api.clock import clock_nows
from ingestion_api.entitlements.stored import StoredUsage
from ingestion_api.entitlements.terms import period_at
from ingestion_api.entitlements.used import Counters, Freshness, Used, load_counters, measure_missing
from ingestion_api.fields import MAX_INSTANT, MIN_INSTANT
from ingestion_api.views import JsonNumber, Period
from pricing.entitlement_terms import Former, carried_into, formers_of, in_effect_at, limit_with
from pricing.entitlements import (
    FEATURE_OFF,
    FEATURE_ON,
    NO_ENTITLEMENT,
    SUBSCRIPTION_INACTIVE,
    Allowance,
    Decision,
    Enforcement,
    EntitlementPeriod,
    OnUnknown,
    Reason,
    check,
    degraded,
    stack,
)
from pricing.explain import ZERO
from schemas.meters import Aggregation
from schemas.money import EXACT, format_decimal

log = structlog.get_logger("meterline.checks")


class CheckView(TypedDict):
    """A decision and what it rests on. Every event acknowledged before `as_of` is in `used`; `as_of` is null while
    nothing can be said of that, before the first event was stored. When no store that knows what is used answers, the
    feature's `on_unknown` decides, the reason is `degraded`, and `used`, `as_of` and all that rest on them are null.

    `limit` and `remaining` are null when there is no limit; `limit` has in it what of the period before was not used
    and is `rolled_over`; `value` is that of a boolean or static feature.
    """

    object: Literal["entitlement_check"]
    customer: str
    feature: str
    type: Literal["metered", "boolean", "static"]
    allowed: bool
    reason: Reason
    value: Any
    limit: str | None
    rolled_over: str | None
    used: str | None
    reserved: str | None
    remaining: str | None
    overage: str | None
    enforcement: Enforcement | None
    period: Period | None
    subscription: str | None
    as_of: datetime | None
    lag_seconds: JsonNumber | None


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
    formers: dict[int, Former]  # of what may carry over: the period before
    counters: Counters  # of the periods
    former_counters: Counters
    reserved: Mapping[HoldKey, Decimal]  # of what is metered; nothing where absent

    def in_effect(self, question: Question) -> list[Row]:
        """The entitlements that hold now, the one that says more last."""
        own = self.rows.get((question.customer["id"], question.feature["id"]), [])
        return sorted((row for row in own if in_effect(row)), key=_rank)

    def knows(self, row: Row, usage: "Usage") -> bool:
        """Whether all that a metered entitlement's decision rests on is known."""
        number = row["no"]
        return number in usage.present and (number not in self.formers or number in usage.former)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is used, by entitlement: in the present periods, and in the former ones of those that carry over."""

    present: Mapping[int, Used]
    former: Mapping[int, Used]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a customer has of a metered feature, of all subscriptions and add-ons together. The period shown is the one
    that ends first; `rolled_over` is a part of the limit."""

    whole: Allowance
    rolled_over: Decimal
    period: EntitlementPeriod
    fresh: Freshness
    subscription: str | None


def load_basis(
    connection: PgConnection, questions: Sequence[Question], *, tenant_id: str, now: datetime, settings: Settings
) -> Basis:
    """All that is stored of the entitlements that are asked for. What is used and what is reserved belong together when
    the transaction is one snapshot, or holds the locks of what is reserved."""
    as_of = counters_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    rows = load_terms(connection, questions, tenant_id=tenant_id, now=now)
    return basis_of(connection, questions, rows, as_of=as_of, now=now, settings=settings)


def load_terms(connection: PgConnection, questions: Iterable[Question], *, tenant_id: str, now: datetime) -> list[Row]:
    """The entitlements that are asked for, in effect or not, of `at_their_now`."""
    asked = list(questions)
    rows = entitlements.load_of_customers(
        connection,
        tenant_id=tenant_id,
        customer_ids=sorted({question.customer["id"] for question in asked}),
        feature_ids=sorted({question.feature["id"] for question in asked}),
    )
    return at_their_now(connection, rows, now)


def at_their_now(connection: PgConnection, rows: Sequence[Row], now: datetime) -> list[Row]:
    """Entitlements with the `now` of their customers: that of a test clock, or the real one."""
    nows = clock_nows(connection, {row["test_clock_id"] for row in rows}, now)
    return [{**row, "now": nows[row["test_clock_id"]]} for row in rows]


def basis_of(
    connection: PgConnection,
    questions: Sequence[Question],
    rows: Sequence[Row],
    *,
    as_of: datetime | None,
    now: datetime,
    settings: Settings,
) -> Basis:
    """The same from the entitlements of these customers, in effect or not, of `at_their_now`; `as_of`: of the counters,
    read before this."""
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row["customer_id"], row["feature_id"]), []).append(row)
    metered = [(row, period_at(row, row["now"])) for row in rows if row["type"] == "metered" and in_effect(row)]
    periods = {row["no"]: period for row, period in metered}
    formers = formers_of([row for row, _ in metered], rows, periods)
    before = [(row, formers[row["no"]].period) for row, _ in metered if row["no"] in formers]
    held = sorted({HoldKey(row["customer_id"], row["feature_id"]) for row, _ in metered})
    return Basis(
        questions=questions,
        rows=by_pair,
        periods=periods,
        formers=formers,
        reserved=load_reserved(connection, held, now=now, as_of=as_of),
        counters=load_counters(connection, metered, as_of=as_of, now=now, settings=settings),
        former_counters=load_counters(connection, before, as_of=as_of, now=now, settings=settings),
    )


def decide(
    stored: StoredUsage, basis: Basis, *, tenant_no: int, now: datetime, may_degrade: bool = False
) -> list[CheckView]:
    """The answers, in order. ClickHouse is asked only for what no counter holds; hold no transaction. Raises what it
    raises: one entitlement that can't be judged leaves all unanswered; but with `may_degrade` features decide
    themselves (`on_unknown`) while ClickHouse does not answer."""
    try:
        usage = Usage(
            present=measure_missing(stored, basis.counters, tenant_no=tenant_no),
            former=measure_missing(stored, basis.former_counters, tenant_no=tenant_no),
        )
    except ClickHouseError as error:
        if not may_degrade:
            raise
        log.warning("usage is not known", error=str(error), entitlements=len(basis.counters.missing))
        usage = Usage(present=basis.counters.counted, former=basis.former_counters.counted)
    answers: list[CheckView] = []
    for question in basis.questions:
        present = basis.in_effect(question)
        if not present:
            answers.append(_refusal(question, absence_of(basis, question), now))
        elif question.feature["type"] == "metered" and not all(basis.knows(row, usage) for row in present):
            answers.append(unknown_view(question, present, basis.periods))
        elif question.feature["type"] == "metered":
            answers.append(_weigh(question, stand(present, basis, usage), basis.reserved, now))
        else:
            answers.append(_look_up(question, present, now))
    return answers


def absence_of(basis: Basis, question: Question) -> Decision:
    """Why no entitlement is in effect."""
    own = basis.rows.get((question.customer["id"], question.feature["id"]))
    return SUBSCRIPTION_INACTIVE if own else NO_ENTITLEMENT


def _rank(row: Row) -> tuple[bool, str, bool, int]:
    """Later ones say more: a later subscription's, and in one an add-on's; most of all the customer's own."""
    subscription_id = row["subscription_id"]
    return subscription_id is None, subscription_id or "", row["source"] != "plan", row["no"]


def in_effect(row: Row) -> bool:
    """Whether an entitlement holds at its customer's `now`, which is in the row."""
    return in_effect_at(row, row["now"])


def stand(rows: Sequence[Row], basis: Basis, usage: Usage) -> Standing:
    """What these entitlements to one metered feature, all in effect and known, give together: it adds up."""
    periods, used = basis.periods, [usage.present[row["no"]] for row in rows]
    former = {row["no"]: usage.former[row["no"]] for row in rows if row["no"] in basis.formers}
    carried = carried_into(rows, basis.formers, {number: each.quantity for number, each in former.items()})
    allowances = [
        Allowance(
            limit=limit_with(row, carried),
            used=each.quantity,
            since=periods[row["no"]].start,
            enforcement=Enforcement(row["enforcement"]),
        )
        for row, each in zip(rows, used, strict=True)
    ]
    return Standing(
        whole=stack(allowances, Aggregation(rows[0]["aggregation"])),
        rolled_over=reduce(EXACT.add, carried.values(), ZERO),
        period=_first_to_end(periods[row["no"]] for row in rows),
        fresh=min((each.fresh for each in (*used, *former.values())), key=lambda fresh: fresh.as_of or MIN_INSTANT),
        subscription=_subscription_of(rows),
    )


def _subscription_of(rows: Sequence[Row]) -> str | None:
    """The last subscription that has a part in it; None: the customer's own alone."""
    return next((row["subscription_id"] for row in reversed(rows) if row["subscription_id"] is not None), None)


def _weigh(question: Question, standing: Standing, held: Mapping[HoldKey, Decimal], now: datetime) -> CheckView:
    """The answer for a metered feature."""
    whole = standing.whole
    reserved = held.get(HoldKey(question.customer["id"], question.feature["id"]), Decimal(0))
    decision = check(
        limit=whole.limit,
        used=whole.used,
        reserved=reserved,
        quantity=question.quantity,
        enforcement=whole.enforcement,
    )
    return metered_view(question, standing, decision, reserved=reserved, now=now)


def unknown_view(question: Question, rows: Sequence[Row], periods: Mapping[int, EntitlementPeriod]) -> CheckView:
    """The answer for a feature whose use, or more of it, is not known. `rows`: entitlements to it, if it is metered and
    they are known to be in effect: where there is no limit, or a soft one, nobody need know the use."""
    limits = [row["limit_quantity"] for row in rows]
    is_unlimited = None in limits
    is_soft = any(row["enforcement"] == Enforcement.SOFT for row in rows)
    decision = FEATURE_ON if is_unlimited else degraded(OnUnknown(question.feature["on_unknown"]), is_soft=is_soft)
    CHECKS_DEGRADED.labels(str(decision.allowed).lower()).inc()
    view: CheckView = {**_refusal(question, decision, MIN_INSTANT), "as_of": None, "lag_seconds": None}
    if not rows:
        return view
    period = _first_to_end(periods[row["no"]] for row in rows)
    return {
        **view,
        "limit": None if is_unlimited else format_decimal(reduce(EXACT.add, limits)),
        "enforcement": Enforcement.SOFT if is_soft else Enforcement.HARD,
        "period": {"start": period.start, "end": period.end},
        "subscription": _subscription_of(rows),
    }


def _first_to_end(periods: Iterable[EntitlementPeriod]) -> EntitlementPeriod:
    return min(periods, key=lambda period: period.end or MAX_INSTANT)


def metered_view(
    question: Question, standing: Standing, decision: Decision, *, reserved: Decimal, now: datetime
) -> CheckView:
    """A decision about a metered feature, with its figures."""
    whole, fresh = standing.whole, standing.fresh
    return {
        **_refusal(question, decision, now),
        "limit": _text(whole.limit),
        "rolled_over": None if whole.limit is None else format_decimal(standing.rolled_over),
        "used": format_decimal(whole.used),
        "reserved": format_decimal(reserved),
        "remaining": _text(decision.remaining),
        "overage": format_decimal(decision.overage),
        "enforcement": whole.enforcement,
        "period": {"start": standing.period.start, "end": standing.period.end},
        "subscription": standing.subscription,
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
        "rolled_over": None,
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
