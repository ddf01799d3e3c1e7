"""Entitlements given to a customer directly, with or without a subscription. They stack with those of plans and
add-ons: limits add up, and one without a limit wins."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.responses import Response

from infra.postgres import catalogue, entitlements, features, outbox
from infra.postgres import given_entitlements as store
from infra.postgres.entitlement_entries import change_of
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import clock_now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import check_not_archived
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.features import find as find_feature
from ingestion_api.control.plan_terms import read_terms
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH, Body, DecimalText, Instant, Metadata, Reference
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from pricing.entitlements import Enforcement, Reset
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import format_decimal
from schemas.topics import SystemEvent

MAX_GIVEN = 1_000  # of one customer, that have not ended
TERMS = ("limit", "value", "reset", "enforcement", "rollover_max")

router = house_router("entitlements")


class EntitlementBody(Body):
    """`limit` (null: unlimited), `reset` (`never` unless it is said), `enforcement` and `rollover_max` are of a metered
    feature, `value` of another. It holds from `starts_at` (default: now) to before `ends_at`, and usage counts from
    `starts_at` on."""

    feature: Reference
    limit: DecimalText | None = None
    value: Any = None
    reset: Literal["hour", "day", "week", "month", "year", "never"] = "never"
    enforcement: Literal["hard", "soft"] = "hard"
    rollover_max: DecimalText | None = None
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    metadata: Metadata


class EntitlementView(ObjectView):
    """An entitlement of a customer's own. `timezone`: of the periods in which a metered one is reset, the customer's
    when it was given."""

    object: Literal["entitlement"]
    customer: str
    customer_id: str
    feature: str
    type: Literal["metered", "boolean", "static"]
    limit: str | None
    value: Any
    reset: Reset | None
    enforcement: Enforcement | None
    rollover_max: str | None
    timezone: str
    starts_at: datetime
    ends_at: datetime | None


def to_view(row: Row) -> EntitlementView:
    return {
        "object": "entitlement",
        "id": row["id"],
        "customer": row["customer"],
        "customer_id": row["customer_id"],
        "feature": row["feature"],
        "type": row["type"],
        "limit": _text(row["limit_quantity"]),
        "value": row["value"],
        "reset": row["reset"],
        "enforcement": row["enforcement"],
        "rollover_max": _text(row["rollover_max"]),
        "timezone": row["timezone"],
        "starts_at": row["starts_at"],
        "ends_at": row["ends_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def _text(number: Decimal | None) -> str | None:
    return None if number is None else format_decimal(number)


@router.post(
    "/v1/customers/{customer}/entitlements",
    status_code=201,
    response_model=EntitlementView,
    operation_id="give_entitlement",
)
def give_entitlement(customer: str, body: EntitlementBody, call: AdminCall) -> Response:
    """Entitle a customer to a feature, beside what its subscriptions say."""
    return call.perform(lambda connection: _give(connection, customer, body, call))


def _give(connection: PgConnection, reference: str, body: EntitlementBody, call: Call) -> EntitlementView:
    customer = find_customer(connection, call.tenant_id, reference, lock=True)
    check_not_archived(customer)
    feature = features.load_feature(connection, tenant_id=call.tenant_id, reference=body.feature)
    if feature is None:
        raise Reject.at("/feature", "feature.not_found", f"There is no feature {body.feature!r}.")
    given = {name: getattr(body, name) for name in TERMS if name in body.model_fields_set}
    if feature["type"] == "metered":
        given = {"reset": body.reset, **given}
    terms = read_terms(feature["type"], given, "", code="entitlement.invalid_terms")
    now = clock_now(connection, customer["test_clock_id"], call.now)
    if store.count_living(connection, customer_id=customer["id"], now=now) >= MAX_GIVEN:
        raise Conflict("entitlement.too_many", f"The customer has {MAX_GIVEN} of its own already; delete one.")
    starts_at = body.starts_at or now
    if body.ends_at is not None and body.ends_at <= starts_at:
        raise Reject.at("/ends_at", "entitlement.invalid_end", "The end must be later than the start.")
    entitlement_id = new_id(Prefix.ENTITLEMENT)
    store.insert_given(
        connection,
        entitlement_id=entitlement_id,
        tenant_id=call.tenant_id,
        customer_id=customer["id"],
        feature_id=feature["id"],
        terms=terms,
        timezone=customer["timezone"],
        starts_at=starts_at,
        ends_at=body.ends_at,
        metadata=body.metadata,
        now=call.now,
    )
    row = _find(connection, call.tenant_id, customer["id"], entitlement_id)
    return _told(connection, SystemEvent.ENTITLEMENT_CREATED, row, call)


@router.delete(
    "/v1/customers/{customer}/entitlements/{entitlement}",
    response_model=EntitlementView,
    operation_id="take_entitlement",
)
def take_entitlement(customer: str, entitlement: str, call: AdminCall) -> Response:
    """Take back an entitlement that was given to a customer: from now on it is as if it had not been."""

    def effect(connection: PgConnection) -> EntitlementView:
        owner = find_customer(connection, call.tenant_id, customer, lock=True)
        row = _find(connection, call.tenant_id, owner["id"], entitlement)
        return _told(connection, SystemEvent.ENTITLEMENT_DELETED, row, call)

    return call.perform(effect, status=200)


def _told(connection: PgConnection, event: SystemEvent, row: Row, call: Call) -> EntitlementView:
    """Tell of it, flows too; one that is deleted goes meanwhile."""
    view = to_view(row)
    outbox.append(connection, tenant_id=call.tenant_id, event=event, object_id=view["id"], data={**view}, now=call.now)
    is_gone = event is SystemEvent.ENTITLEMENT_DELETED
    terms = entitlements.load_numbered(connection, no=row["no"])
    if is_gone:
        entitlements.remove_entitlements(connection, [row["no"]])
    if terms["meter_no"] is not None:
        change = change_of(terms, tenant_no=call.principal.tenant_no, is_gone=is_gone)
        catalogue.append_changes(connection, [change])
    return view


def _find(connection: PgConnection, tenant_id: str, customer_id: str, entitlement_id: str) -> Row:
    row = store.load_given(connection, tenant_id=tenant_id, customer_id=customer_id, entitlement_id=entitlement_id)
    if row is None:
        raise NotFound("entitlement.not_found", f"The customer was given no entitlement {entitlement_id!r}.")
    return row


@router.get(
    "/v1/customers/{customer}/entitlements/{entitlement}",
    response_model=EntitlementView,
    operation_id="get_entitlement",
)
def get_entitlement(customer: str, entitlement: str, principal: Reader, context: FromContext) -> Response:
    """One entitlement that was given to a customer."""
    with context.database.transaction() as connection:
        owner = find_customer(connection, principal.tenant_id, customer)
        return answer(to_view(_find(connection, principal.tenant_id, owner["id"], entitlement)))


@router.get("/v1/entitlements", response_model=ListView[EntitlementView], operation_id="list_entitlements")
def list_entitlements(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    customer: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
    feature: Annotated[str | None, Query(max_length=MAX_EXTERNAL_ID_LENGTH)] = None,
) -> Response:
    """What was given to customers directly, newest first, ended ones too. Those of subscriptions are not among them:
    `GET /v1/customers/{customer}/entitlements` has what all come to."""
    before_id, tenant_id = check_cursor(starting_after, Prefix.ENTITLEMENT), principal.tenant_id
    with context.database.transaction() as connection:
        rows = store.list_given(
            connection,
            tenant_id=tenant_id,
            customer_id=None if customer is None else find_customer(connection, tenant_id, customer)["id"],
            feature_id=None if feature is None else find_feature(connection, tenant_id, feature)["id"],
            before_id=before_id,
            limit=limit + 1,
        )
    return answer(page(rows, limit, to_view))
