"""Coupons: discounts with a name, a number of redemptions and an end. Subscriptions redeem them by key, id or code."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.postgres import coupons, outbox
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Principal, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.fields import (
    Body,
    Currency,
    DecimalText,
    Instant,
    Key,
    Metadata,
    MetadataChange,
    Name,
    merge_metadata,
)
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.money import currency_exponent, format_decimal
from schemas.topics import SystemEvent

INVALID_COUPON = "coupon.invalid_terms"
MAX_CODE_LENGTH = 100
MAX_COUNT = 2**31 - 1  # of periods and redemptions
MAX_AMOUNT = Decimal(10**12)

router = house_router("coupons")

Duration = Literal["once", "repeating", "forever"]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Code = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_CODE_LENGTH,
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="What a customer types; upper and lower case are the same.",
    ),
]


class CouponBody(Body):
    """`percent`, or `amount` and `currency`. `once`: of one invoice; `repeating`: of `periods` invoices."""

    key: Key
    name: Name | None = None
    code: Code | None = None
    percent: DecimalText | None = None
    amount: DecimalText | None = None
    currency: Currency | None = None
    duration: Duration
    periods: Count | None = None
    max_redemptions: Count | None = None
    expires_at: Instant | None = None
    metadata: Metadata


class CouponChange(Body):
    """What is absent stays as it is. An archived coupon is redeemed no more; who has it keeps it."""

    name: Name | None = None
    archived: bool | None = None
    metadata: MetadataChange


class CouponView(ObjectView):
    """A coupon. `redemptions` says how many subscriptions have redeemed it so far."""

    object: Literal["coupon"]
    key: str
    name: str
    code: str | None
    percent: str | None
    amount: str | None
    currency: str | None
    duration: Duration
    periods: int | None
    max_redemptions: int | None
    redemptions: int
    expires_at: datetime | None
    archived_at: datetime | None


def to_view(row: Row) -> CouponView:
    return {
        "object": "coupon",
        "id": row["id"],
        "key": row["key"],
        "name": row["name"],
        "code": row["code"],
        "percent": _text(row["percent"]),
        "amount": _text(row["amount"]),
        "currency": row["currency"],
        "duration": row["duration"],
        "periods": row["periods"],
        "max_redemptions": row["max_redemptions"],
        "redemptions": row["redemptions"],
        "expires_at": row["expires_at"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def _text(number: Decimal | None) -> str | None:
    return None if number is None else format_decimal(number)


def find(connection: PgConnection, tenant_id: str, reference: str, *, lock: bool = False) -> Row:
    """The tenant's coupon by id, key or code. Raises NotFound."""
    row = coupons.load_coupon(connection, tenant_id=tenant_id, reference=reference, lock=lock)
    if row is None:
        raise NotFound("coupon.not_found", f"There is no coupon {reference!r}.")
    return row


@router.post("/v1/coupons", status_code=201, response_model=CouponView, operation_id="create_coupon")
def create_coupon(body: CouponBody, call: AdminCall) -> Response:
    """Make a coupon. Its terms never change; archive it and make another one."""
    terms = read_terms(body, call.now)

    def effect(connection: PgConnection) -> CouponView:
        row = coupons.insert_coupon(
            connection,
            coupon_id=new_id(Prefix.COUPON),
            tenant_id=call.tenant_id,
            key=body.key,
            name=body.name or body.key,
            code=body.code,
            terms=terms,
            max_redemptions=body.max_redemptions,
            expires_at=body.expires_at,
            metadata=body.metadata,
            now=call.now,
        )
        if row is None:
            raise Conflict("coupon.already_exists", f"There is a coupon with the key {body.key!r} or its code already.")
        return _told(connection, call.principal, SystemEvent.COUPON_CREATED, row, call.now)

    return call.perform(effect)


def read_terms(body: CouponBody, now: datetime) -> dict[str, Any]:
    """What the coupon gives: percent, or amount and currency; duration and periods. Raises Reject."""
    if (body.percent is None) == (body.amount is None):
        raise Reject.at("/percent", INVALID_COUPON, "Give either percent or amount.")
    if body.percent is not None and not 0 < Decimal(body.percent) <= 100:
        raise Reject.at("/percent", INVALID_COUPON, "Must be above 0 and at most 100.")
    if body.amount is not None and not 0 < Decimal(body.amount) <= MAX_AMOUNT:
        raise Reject.at("/amount", INVALID_COUPON, f"Must be above 0 and at most {MAX_AMOUNT}.")
    if (body.amount is None) != (body.currency is None):
        raise Reject.at("/currency", INVALID_COUPON, "An amount has a currency; a percentage has none.")
    if body.amount is not None and body.currency is not None:
        check_scale(Decimal(body.amount), body.currency)
    if (body.duration == "repeating") != (body.periods is not None):
        raise Reject.at("/periods", INVALID_COUPON, "A repeating coupon says for how many periods; no other does.")
    if body.expires_at is not None and body.expires_at <= now:
        raise Reject.at("/expires_at", INVALID_COUPON, "That has passed: nobody could redeem the coupon.")
    return {
        "percent": body.percent,
        "amount": body.amount,
        "currency": body.currency,
        "duration": body.duration,
        "periods": body.periods,
    }


def check_scale(amount: Decimal, currency: str) -> None:
    """Raise Reject for an amount finer than the currency's smallest unit: it could never be taken off in full."""
    digits = currency_exponent(currency)
    if amount != round(amount, digits):
        raise Reject.at("/amount", INVALID_COUPON, f"{currency} has {digits} digits after the point.")


@router.get("/v1/coupons", response_model=ListView[CouponView], operation_id="list_coupons")
def list_coupons(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
) -> Response:
    """The tenant's coupons, newest first."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.COUPON, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = coupons.list_coupons(
            connection, tenant_id=principal.tenant_id, archived=archived, before_id=before_id, limit=limit + 1
        )
    return answer(page(rows, limit, to_view))


@router.get("/v1/coupons/{coupon}", response_model=CouponView, operation_id="get_coupon")
def get_coupon(coupon: str, principal: Reader, context: FromContext) -> Response:
    """One coupon, by id, key or code."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, coupon)))


@router.patch("/v1/coupons/{coupon}", response_model=CouponView, operation_id="update_coupon")
def update_coupon(coupon: str, body: CouponChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Rename a coupon, archive it (`"archived": true`) or take it out of the archive."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, coupon, lock=True)
        metadata = merge_metadata(row["metadata"], body.metadata)
        archived_at = row["archived_at"]
        if body.archived is not None:
            archived_at = (archived_at or now) if body.archived else None
        changed = coupons.update_coupon(
            connection,
            coupon_id=row["id"],
            name=body.name or (row["key"] if "name" in body.model_fields_set else row["name"]),
            archived_at=archived_at,
            metadata=metadata,
        )
        return answer(_told(connection, principal, SystemEvent.COUPON_UPDATED, changed, now))


def _told(connection: PgConnection, principal: Principal, event: SystemEvent, row: Row, now: datetime) -> CouponView:
    view = to_view(row)
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
    return view
