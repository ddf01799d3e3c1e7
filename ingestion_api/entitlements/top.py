"""`GET /v1/entitlements/top`: who has used the most of a feature's limit, over all customers."""

from collections.abc import Iterator
from decimal import Decimal
from heapq import nsmallest
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from infra.postgres.pool import Row
from ingestion_api.answers import answer
from ingestion_api.auth import CheckerOrReader, Principal
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.control.features import find as find_feature
from ingestion_api.entitlements.decide import CheckView
from ingestion_api.entitlements.states import look
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.routing import house_router
from ingestion_api.views import JsonNumber, ListView
from schemas.errors import Reject, Retry
from schemas.money import ROUNDING

MAX_TOP = 100
STATES_AT_ONCE = 1_000
HUNDRED = Decimal(100)

router = house_router("entitlements")


class TopView(CheckView):
    """A check and how much of the limit is used or reserved, in percent to two digits, rounded down. More than 100: a
    soft limit, or one that was passed."""

    used_percent: JsonNumber


@router.get("/v1/entitlements/top", response_model=ListView[TopView], operation_id="top_entitlements")
def top_entitlements(
    principal: CheckerOrReader,
    context: FromContext,
    now: Now,
    feature: Annotated[str, Query(max_length=MAX_EXTERNAL_ID_LENGTH)],
    min_percent: Annotated[int, Query(ge=0, le=10_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_TOP)] = 10,
) -> Response:
    """The customers who are nearest to the limit of a metered feature, or furthest beyond it. All on one page. Whoever
    has no limit is not among them."""
    with context.database.transaction() as connection:
        found = find_feature(connection, principal.tenant_id, feature)
    if found["type"] != "metered":
        raise Reject.at("/feature", "feature.not_metered", f"Of a {found['type']} feature nothing is used.")
    if not context.replica.is_current(principal.tenant_id):
        raise Retry("entitlement.not_ready", "Entitlements are being loaded.", retry_after_seconds=1)
    near = (each for each in _all(context, principal, found, now) if each["used_percent"] >= min_percent)
    best = nsmallest(limit, near, key=lambda each: (-each["used_percent"], each["customer"]))
    return answer({"object": "list", "data": best, "has_more": False, "next_cursor": None})


def _all(context: Context, principal: Principal, feature: Row, now: Now) -> Iterator[TopView]:
    pairs = [pair for pair in context.replica.book.pairs(principal.tenant_id) if pair[1] == feature["id"]]
    for start in range(0, len(pairs), STATES_AT_ONCE):
        for view in look(context, principal, pairs[start : start + STATES_AT_ONCE], now).values():
            percent = used_percent(view)
            if percent is not None:
                yield {**view, "used_percent": percent}


def used_percent(view: CheckView) -> Decimal | None:
    """None without a limit, or without an entitlement in effect. Of a limit of 0 all is used."""
    if view["limit"] is None or view["used"] is None:
        return None
    limit = Decimal(view["limit"])
    if not limit:
        return HUNDRED
    taken = ROUNDING.add(Decimal(view["used"]), Decimal(view["reserved"] or 0))
    hundredths = ROUNDING.divide(ROUNDING.multiply(taken, HUNDRED * HUNDRED), limit) // 1
    return hundredths / HUNDRED
