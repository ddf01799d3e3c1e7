"""Many requests to reserve, of one tenant, in one transaction: each is decided in its order, with what those before it
have taken.

All their holds are locked first, in the order of their keys. From then on nobody else takes of the same limits, and no
flow settles one: what is used and what is held, read after that, belong together. Used may only be more a moment later,
by events that nobody reserved for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from infra.postgres import entitlements, idempotency
from infra.postgres.counters import load_given_up
from infra.postgres.features import load_features
from infra.postgres.holds import Hold, HoldKey, add_to_holds, end_due, ensure_holds, lock_holds
from infra.postgres.pool import Database, PgConnection, Row, plan_once
from infra.postgres.reservations import NewReservation, insert_reservations
from infra.postgres.shards import counters_as_of
from infra.settings import Settings
from ingestion_api.answers import encode
from ingestion_api.entitlements.decide import (
    Basis,
    CheckView,
    Question,
    Standing,
    Usage,
    absence_of,
    basis_of,
    load_terms,
    metered_view,
    stand,
)
from ingestion_api.idempotency import check_same
from ingestion_api.problems import problem
from ingestion_api.reservations.views import ReservedView
from pricing.entitlements import USED_UP, Decision, check
from pricing.explain import ZERO
from schemas.errors import Conflict, MeterlineError, NotFound, Reject, Retry
from schemas.ids import Prefix, new_id
from schemas.meters import Aggregation
from schemas.money import EXACT, format_decimal
from schemas.reservations import ReservationState

#: Ends of reservations that one transaction writes down. More than these are there only after a flood of them.
MAX_ENDS_AT_ONCE = 10_000


class Again(Retry):
    """Not now, but in a moment: whoever has time tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. `now` is its own instant; `key`, `request_sha256`, `path` and `request_id` are for the answer that
    is kept under an Idempotency-Key."""

    customer: str
    feature: str
    quantity: Decimal
    ttl_seconds: int
    metadata: dict[str, str]
    now: datetime
    key: str | None
    request_sha256: bytes
    path: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body; of a refusal, a problem document."""

    status: int
    body: bytes
    replayed: bool = False


Outcome = Answer | MeterlineError


@dataclass(slots=True)
class _Taking:
    """What the transaction takes, while it decides."""

    basis: Basis
    reserved: dict[HoldKey, Decimal]
    taken: dict[HoldKey, Decimal]
    new: list[NewReservation]
    given_up: set[int]  # entitlements


def reserve_all(
    database: Database, asked: Sequence[Asked], *, tenant_id: str, settings: Settings
) -> tuple[list[Outcome], dict[HoldKey, datetime]]:
    """What becomes of each request, in order, and when the last of the new reservations of each key expires.

    A refusal is an Answer when it was kept under a key, else the error itself; Again and other Retry are never kept.
    Raises Retry when PostgreSQL is away: then nothing has happened, or it is not known whether it has.
    """
    missing: Sequence[HoldKey] = ()
    while True:
        if missing:
            with database.transaction() as connection:
                ensure_holds(connection, tenant_id=tenant_id, keys=missing)
        with database.transaction() as connection:
            plan_once(connection)
            outcomes, questions = _prepare(connection, asked, tenant_id=tenant_id)
            keys = sorted({_key_of(question) for question in questions.values()})
            locked = lock_holds(connection, keys)
            missing = [key for key in keys if key not in locked]
            if not missing:
                return _reserve_locked(connection, asked, questions, outcomes, locked, tenant_id, settings)


def _key_of(question: Question) -> HoldKey:
    return HoldKey(question.customer["id"], question.feature["id"])


def _prepare(
    connection: PgConnection, asked: Sequence[Asked], *, tenant_id: str
) -> tuple[dict[int, Outcome], dict[int, Question]]:
    """By place: what is decided without a look at any limit, and the questions that are left."""
    outcomes = _kept(connection, asked, tenant_id=tenant_id)
    left = [index for index in range(len(asked)) if index not in outcomes]
    references = [asked[index].customer for index in left]
    customers = entitlements.load_customers(connection, tenant_id=tenant_id, references=references)
    features = load_features(connection, tenant_id=tenant_id, references=[asked[index].feature for index in left])
    questions: dict[int, Question] = {}
    for index in left:
        try:
            questions[index] = _question(asked[index], customers, features)
        except MeterlineError as error:
            outcomes[index] = error
    return outcomes, questions


def _kept(connection: PgConnection, asked: Sequence[Asked], *, tenant_id: str) -> dict[int, Outcome]:
    """What is answered by Idempotency-Keys. Of several requests with one key the first goes on, the others wait."""
    keyed = {index: each.key for index, each in enumerate(asked) if each.key is not None}
    if not keyed:
        return {}
    now = max(each.now for each in asked)
    ours, kept = idempotency.claim_many(connection, tenant_id=tenant_id, keys=sorted(set(keyed.values())), now=now)
    outcomes: dict[int, Outcome] = {}
    seen: Counter[str] = Counter()
    for index, key in keyed.items():
        seen[key] += 1
        row = kept.get(key)
        if row is not None:
            outcomes[index] = _replay(row, asked[index])
        elif key not in ours or seen[key] > 1:
            outcomes[index] = Again("idempotency.in_progress", "Another request under this key is not done yet.")
    return outcomes


def _replay(row: Row, asked: Asked) -> Outcome:
    try:
        check_same(row["request_sha256"], asked.request_sha256)
    except Conflict as error:
        return error
    return Answer(row["status"], row["body"], replayed=True)


def _question(asked: Asked, customers: Mapping[str, Row], features: Mapping[str, Row]) -> Question:
    customer, feature = customers.get(asked.customer), features.get(asked.feature)
    if customer is None:
        raise NotFound("customer.not_found", f"There is no customer {asked.customer!r}.")
    if feature is None:
        raise NotFound("feature.not_found", f"There is no feature {asked.feature!r}.")
    if feature["type"] != "metered":
        detail = f"The feature is {feature['type']}: there is nothing of it to reserve. Check it instead."
        raise Reject.at("/feature", "entitlement.not_metered", detail)
    aggregation = feature["aggregation"]
    if aggregation not in USED_UP:
        detail = f"The feature's meter takes the {aggregation} of its values: reservations of it do not add up."
        raise Reject.at("/feature", "entitlement.not_reservable", detail)
    if aggregation != Aggregation.SUM and asked.quantity != asked.quantity.to_integral_value():
        detail = f"The feature's meter gives whole numbers ({aggregation}): a part of one can't be used."
        raise Reject.at("/quantity", "entitlement.not_whole", detail)
    return Question(customer=customer, feature=feature, quantity=asked.quantity)


def _reserve_locked(
    connection: PgConnection,
    asked: Sequence[Asked],
    questions: Mapping[int, Question],
    outcomes: dict[int, Outcome],
    locked: Mapping[HoldKey, Hold],
    tenant_id: str,
    settings: Settings,
) -> tuple[list[Outcome], dict[HoldKey, datetime]]:
    now = max(each.now for each in asked)
    in_use = [hold.key for hold in locked.values() if hold.reserved]
    as_of = counters_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    if end_due(connection, in_use, now=now, as_of=as_of, limit=MAX_ENDS_AT_ONCE) == MAX_ENDS_AT_ONCE:
        # More may be due, so that a refusal could be wrong. What has been written down stays.
        outcomes |= dict.fromkeys(questions, Again("entitlement.overloaded", "Many reservations have just ended."))
        return [outcomes[index] for index in range(len(asked))], {}
    rows = load_terms(connection, questions.values(), tenant_id=tenant_id, now=now)
    basis = basis_of(connection, list(questions.values()), rows, as_of=as_of, now=now, settings=settings)
    unknown = [
        (number, span.start)
        for counters in (basis.counters, basis.former_counters)
        for number, span in counters.missing.items()
    ]
    given_up = load_given_up(connection, unknown) if unknown else set[int]()
    taking = _Taking(basis=basis, reserved=dict(basis.reserved), taken={}, new=[], given_up=given_up)
    for index, question in questions.items():
        try:
            outcomes[index] = Answer(201, encode(_take(taking, asked[index], question)))
        except MeterlineError as error:
            outcomes[index] = error
    if taking.new:
        insert_reservations(connection, tenant_id=tenant_id, new=taking.new)
        add_to_holds(connection, taking.taken)
    _keep(connection, asked, outcomes, tenant_id=tenant_id, now=now)
    until: dict[HoldKey, datetime] = {}
    for new in taking.new:
        until[new.key] = max(until.get(new.key, new.expires_at), new.expires_at)
    return [outcomes[index] for index in range(len(asked))], until


def _take(taking: _Taking, asked: Asked, question: Question) -> ReservedView:
    """Decide on one, with all that was taken before it. Raises Conflict when it is refused, or usage of the period has
    been given up; Again while that is not counted yet."""
    basis, key = taking.basis, _key_of(question)
    rows = basis.in_effect(question)
    if not rows:
        raise _refusal(asked, absence_of(basis, question))
    usage = Usage(present=basis.counters.counted, former=basis.former_counters.counted)
    if any(row["no"] in taking.given_up for row in rows):
        detail = "The period has too many different values to be counted. Check it instead: that measures them."
        raise Conflict("entitlement.not_counted", detail)
    if not all(basis.knows(row, usage) for row in rows):
        raise Again("entitlement.not_ready", "Usage of this period is being counted for the first time; try again.")
    standing = stand(rows, basis, usage)
    whole, reserved = standing.whole, taking.reserved.get(key, ZERO)
    decision = check(
        limit=whole.limit,
        used=whole.used,
        reserved=reserved,
        quantity=asked.quantity,
        enforcement=whole.enforcement,
    )
    if not decision.allowed:
        raise _refusal(asked, decision, standing, reserved)
    new = NewReservation(
        id=new_id(Prefix.RESERVATION),
        key=key,
        quantity=asked.quantity,
        expires_at=asked.now + timedelta(seconds=asked.ttl_seconds),
        metadata=asked.metadata,
        created_at=asked.now,
    )
    taking.new.append(new)
    taking.reserved[key] = reserved = EXACT.add(reserved, asked.quantity)
    taking.taken[key] = EXACT.add(taking.taken.get(key, ZERO), asked.quantity)
    after = check(limit=whole.limit, used=whole.used, reserved=reserved, enforcement=whole.enforcement)
    told = replace(after, allowed=True, reason=decision.reason)
    return _reserved_view(new, metered_view(question, standing, told, reserved=reserved, now=asked.now))


def _refusal(asked: Asked, decision: Decision, standing: Standing | None = None, reserved: Decimal = ZERO) -> Conflict:
    """Why nothing was reserved, with the figures behind it."""
    if standing is None:
        detail = f"The customer has no entitlement to {asked.feature!r} now: {decision.reason}."
    else:
        assert decision.remaining is not None
        whole = standing.whole
        detail = (
            f"{format_decimal(asked.quantity)} were asked for and {format_decimal(decision.remaining)} are left:"
            f" {format_decimal(whole.used)} are used and {format_decimal(reserved)} reserved"
            f" of {format_decimal(whole.limit or ZERO)}."
        )
    return Conflict(f"entitlement.{decision.reason}", detail)


def _keep(
    connection: PgConnection, asked: Sequence[Asked], outcomes: dict[int, Outcome], *, tenant_id: str, now: datetime
) -> None:
    """Keep the answers of requests with a key, refusals too; not that it could not be decided, nor what replays say."""
    given: list[idempotency.Given] = []
    for index, outcome in outcomes.items():
        each = asked[index]
        if each.key is None or isinstance(outcome, Retry) or (isinstance(outcome, Answer) and outcome.replayed):
            continue
        if isinstance(outcome, MeterlineError):
            if outcome.code == idempotency.CONFLICT:
                continue  # the key has the answer of another request
            status, _, body = problem(outcome, instance=each.path, request_id=each.request_id)
            outcome = outcomes[index] = Answer(status, body)
        given.append(
            idempotency.Given(
                key=each.key, request_sha256=each.request_sha256, status=outcome.status, body=outcome.body
            )
        )
    if given:
        idempotency.store_many(connection, tenant_id=tenant_id, given=given, now=now)


def _reserved_view(new: NewReservation, weighed: CheckView) -> ReservedView:
    return {
        "object": "reservation",
        "id": new.id,
        "customer": weighed["customer"],
        "feature": weighed["feature"],
        "quantity": format_decimal(new.quantity),
        "status": ReservationState.HELD,
        "expires_at": new.expires_at,
        "allowed": weighed["allowed"],
        "reason": weighed["reason"],
        "limit": weighed["limit"],
        "rolled_over": weighed["rolled_over"],
        "used": weighed["used"],
        "reserved": weighed["reserved"],
        "remaining": weighed["remaining"],
        "overage": weighed["overage"],
        "enforcement": weighed["enforcement"],
        "period": weighed["period"],
        "subscription": weighed["subscription"],
        "as_of": weighed["as_of"],
        "lag_seconds": weighed["lag_seconds"],
        "committed_at": None,
        "ended_at": None,
        "commit_event": None,
        "settled_by": None,
        "created_at": new.created_at,
        "metadata": new.metadata,
    }
