"""OpenFeature remote evaluation (OFREP): a customer's entitlements as feature flags, one or all of them.

`targetingKey` is the customer. A boolean or metered feature is true or false, a static one has its value. Whoever is
not entitled gets false, and for a static feature no value at all, so that the caller's own default holds: a customer
that is not known here is entitled to nothing, which is an answer and no error.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from typing_extensions import TypedDict

from infra.postgres import entitlements
from infra.postgres.features import list_features, load_feature
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import encode
from ingestion_api.auth import Checker, Principal
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.entitlements.decide import CheckView, Question, decide, load_basis
from ingestion_api.entitlements.ofrep_errors import FAILURES, OfrepRoute
from ingestion_api.fields import Reference
from pricing.entitlements import Reason
from schemas.errors import NotFound, Reject

MAX_FLAGS = 2_000  # of one answer
JSON = "application/json"

router = APIRouter(route_class=OfrepRoute, tags=["openfeature"], responses=FAILURES)

FlagReason = Literal["TARGETING_MATCH", "DEFAULT", "DISABLED", "UNKNOWN"]

#: Why OpenFeature says that a value is what it is, by our own reason, which stands in the metadata.
_REASONS: dict[Reason, FlagReason] = {
    Reason.NO_ENTITLEMENT: "DEFAULT",
    Reason.SUBSCRIPTION_INACTIVE: "DISABLED",
    Reason.FEATURE_OFF: "TARGETING_MATCH",
    Reason.DEGRADED: "UNKNOWN",
}


class EvaluationContext(BaseModel):
    """Whom a flag is evaluated for. Other attributes may be there and are not looked at."""

    model_config = ConfigDict(extra="ignore", strict=True)

    targetingKey: Annotated[Reference, Field(description="The customer: external_id or id.")]  # noqa: N815 - OFREP's


class EvaluationRequest(BaseModel):
    """OFREP's evaluation request."""

    model_config = ConfigDict(extra="ignore", strict=True)

    context: EvaluationContext


class FlagView(TypedDict):
    """An evaluated flag. Without `value` the caller's own default holds."""

    key: str
    reason: FlagReason
    variant: str
    value: NotRequired[Any]
    metadata: dict[str, str]


class FlagsView(TypedDict):
    """All flags of the tenant, by key."""

    flags: list[FlagView]


@router.post("/ofrep/v1/evaluate/flags/{key}", response_model=FlagView, operation_id="evaluate_flag")
def evaluate_flag(key: str, body: EvaluationRequest, principal: Checker, context: FromContext, now: Now) -> Response:
    """Evaluate one feature, by key or id, for a customer."""

    def find(connection: PgConnection) -> list[Row]:
        feature = load_feature(connection, tenant_id=principal.tenant_id, reference=key)
        if feature is None:
            raise NotFound("feature.not_found", f"There is no feature {key!r}.")
        return [feature]

    [flag] = _evaluate(context, principal, body.context.targetingKey, find, now)
    return Response(encode({**flag, "key": key}), media_type=JSON)


@router.post(
    "/ofrep/v1/evaluate/flags",
    response_model=FlagsView,
    operation_id="evaluate_flags",
    responses={304: {"description": "Nothing has changed since the ETag that was sent."}},
)
def evaluate_flags(
    body: EvaluationRequest,
    principal: Checker,
    context: FromContext,
    now: Now,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match", max_length=4_000)] = None,
) -> Response:
    """Evaluate all features for a customer. The ETag changes when a value or its reason does."""

    def find(connection: PgConnection) -> list[Row]:
        rows = list_features(connection, tenant_id=principal.tenant_id, before_id=None, limit=MAX_FLAGS + 1)
        if len(rows) > MAX_FLAGS:
            raise Reject("ofrep.too_many_flags", f"There are more than {MAX_FLAGS} features: evaluate them one by one.")
        return sorted(rows, key=lambda row: row["key"])

    flags: FlagsView = {"flags": _evaluate(context, principal, body.context.targetingKey, find, now)}
    encoded = encode(flags)
    etag = f'"{hashlib.sha256(encoded).hexdigest()[:32]}"'
    if _matches(if_none_match, etag):
        return Response(status_code=304, headers={"etag": etag})
    return Response(encoded, media_type=JSON, headers={"etag": etag})


def _evaluate(
    context: Context, principal: Principal, reference: str, find: Callable[[PgConnection], list[Row]], now: datetime
) -> list[FlagView]:
    with context.database.snapshot() as connection:
        features = find(connection)
        customers = entitlements.load_customers(connection, tenant_id=principal.tenant_id, references=[reference])
        customer = customers.get(reference, {"id": "", "external_id": reference})
        questions = [Question(customer=customer, feature=feature, quantity=None) for feature in features]
        basis = load_basis(connection, questions, tenant_id=principal.tenant_id, now=now, settings=context.settings)
    views = decide(context.stored_usage, basis, tenant_no=principal.tenant_no, now=now, may_degrade=True)
    return [_to_flag(check) for check in views]


def _to_flag(check: CheckView) -> FlagView:
    """Nothing of it moves with usage but the value, so that an ETag lasts."""
    has_value = check["type"] == "static" and check["allowed"]
    value = check["value"] if has_value else check["allowed"]
    flag: FlagView = {
        "key": check["feature"],
        "reason": _REASONS.get(check["reason"], "TARGETING_MATCH"),
        "variant": "value" if has_value else "on" if check["allowed"] else "off",
        "metadata": {"type": check["type"], "reason": check["reason"]},
    }
    if has_value or check["type"] != "static":
        flag["value"] = value
    return flag


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110: a list of tags, weak ones too, or `*`."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
