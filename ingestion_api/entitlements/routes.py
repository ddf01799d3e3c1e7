"""Entitlement checks, one or many, and what a customer is entitled to."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Body as RequestBody
from pydantic import AfterValidator, Discriminator, Field, Tag
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import entitlements
from infra.postgres.features import load_features
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import counters_as_of
from ingestion_api.answers import answer
from ingestion_api.auth import CheckerOrReader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.preview import answer_unheld
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.decide import CheckView, Question, at_their_now, basis_of, decide, in_effect, load_basis
from ingestion_api.fields import Body, DecimalText, Reference
from ingestion_api.idempotency import CheckCall
from ingestion_api.problems import VARIANT, pointer
from ingestion_api.routing import house_router
from ingestion_api.views import ListView
from schemas.errors import FieldError, NotFound, Retry

MAX_CHECKS = 500
ONE = f"{VARIANT}one"
BULK = f"{VARIANT}bulk"

router = house_router("entitlements")


def check_not_negative(text: str) -> str:
    if Decimal(text) < 0:
        raise ValueError("must not be negative")
    return text


class CheckBody(Body):
    """Without `quantity`: whether anything is left."""

    customer: Reference
    feature: Reference
    quantity: Annotated[DecimalText | None, AfterValidator(lambda text: text and check_not_negative(text))] = None


class BulkCheckBody(Body):
    checks: Annotated[list[CheckBody], Field(min_length=1, max_length=MAX_CHECKS)]


def variant_of(body: object) -> str:
    """Which of the two bodies this is."""
    return BULK if isinstance(body, BulkCheckBody) or (isinstance(body, dict) and "checks" in body) else ONE


CheckBodies = Annotated[
    Annotated[CheckBody, Tag(ONE)] | Annotated[BulkCheckBody, Tag(BULK)], Discriminator(variant_of), RequestBody()
]


class BulkCheckView(TypedDict):
    """The decisions, in the order of the checks."""

    object: Literal["list"]
    data: list[CheckView]


@router.post("/v1/entitlements/check", response_model=CheckView | BulkCheckView, operation_id="check_entitlements")
def check_entitlements(body: CheckBodies, call: CheckCall, context: FromContext) -> Response:
    """Whether customers may use features now. Nothing is taken: a check reads. While a store is away it is answered as
    well as can be: from memory, or as the feature's `on_unknown` says."""
    bulk = isinstance(body, BulkCheckBody)
    checks = body.checks if isinstance(body, BulkCheckBody) else [body]
    tenant_no = call.principal.tenant_no

    def effect() -> Any:
        try:
            if context.replica.is_alone:
                raise Retry("store.unavailable", "PostgreSQL does not answer.", retry_after_seconds=2)
            with context.database.snapshot() as connection:
                questions = _read(connection, checks, tenant_id=call.tenant_id, bulk=bulk)
                basis = load_basis(
                    connection, questions, tenant_id=call.tenant_id, now=call.now, settings=context.settings
                )
        except Retry:
            asks = [Ask(check.customer, check.feature, _quantity_of(check)) for check in checks]
            views = context.replica.answer_alone(
                context.stored_usage, asks, tenant_id=call.tenant_id, tenant_no=tenant_no, now=call.now
            )
            if views is None:
                raise
        else:
            views = decide(context.stored_usage, basis, tenant_no=tenant_no, now=call.now, may_degrade=True)
        return {"object": "list", "data": views} if bulk else views[0]

    return answer_unheld(call, effect)


def _quantity_of(check: CheckBody) -> Decimal | None:
    return None if check.quantity is None else Decimal(check.quantity)


def _read(connection: PgConnection, checks: Sequence[CheckBody], *, tenant_id: str, bulk: bool) -> list[Question]:
    customers = entitlements.load_customers(
        connection, tenant_id=tenant_id, references=[check.customer for check in checks]
    )
    features = load_features(connection, tenant_id=tenant_id, references=[check.feature for check in checks])
    return [
        Question(
            customer=_found("customer", customers, check.customer, index if bulk else None),
            feature=_found("feature", features, check.feature, index if bulk else None),
            quantity=_quantity_of(check),
        )
        for index, check in enumerate(checks)
    ]


def _found(kind: str, rows: dict[str, Row], reference: str, index: int | None) -> Row:
    row = rows.get(reference)
    if row is None:
        code, detail = f"{kind}.not_found", f"There is no {kind} {reference!r}."
        where = pointer(kind) if index is None else pointer("checks", index, kind)
        raise NotFound(code, detail, errors=(FieldError(pointer=where, code=code, detail=detail),))
    return row


@router.get(
    "/v1/customers/{customer}/entitlements",
    response_model=ListView[CheckView],
    operation_id="list_customer_entitlements",
)
def list_customer_entitlements(customer: str, principal: CheckerOrReader, context: FromContext, now: Now) -> Response:
    """What the customer is entitled to now, a feature each, with what is used and left of it. All on one page."""
    settings = context.settings
    with context.database.snapshot() as connection:
        as_of = counters_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
        found = find_customer(connection, principal.tenant_id, customer)
        own = entitlements.load_of_customers(
            connection, tenant_id=principal.tenant_id, customer_ids=[found["id"]], feature_ids=None
        )
        rows = at_their_now(connection, own, now)
        features = {row["feature_id"]: _feature_of(row) for row in rows if in_effect(row)}
        questions = [
            Question(customer=found, feature=feature, quantity=None)
            for feature in sorted(features.values(), key=lambda feature: feature["key"])
        ]
        basis = basis_of(connection, questions, rows, as_of=as_of, now=now, settings=settings)
    views = decide(context.stored_usage, basis, tenant_no=principal.tenant_no, now=now, may_degrade=True)
    return answer({"object": "list", "data": views, "has_more": False, "next_cursor": None})


def _feature_of(row: Row) -> Row:
    return {"id": row["feature_id"], "key": row["feature"], "type": row["type"], "on_unknown": row["on_unknown"]}
