"""Discounts of a subscription: its own, or those of coupons that it redeems. They are stored expanded, each with how
many invoices it has applied to; the coupon may be archived meanwhile."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from typing_extensions import TypedDict

from infra.postgres import coupons
from infra.postgres.pool import PgConnection, Row
from infra.postgres.subscriptions import save_discounts
from ingestion_api.problems import pointer
from pricing.discounts import Discount, PercentDiscount, read_discount
from pricing.fields import Fields
from schemas.billing import BilledSubscription
from schemas.errors import Conflict, FieldError, Reject
from schemas.money import format_decimal

MAX_DISCOUNTS = 20
HUNDRED = Decimal(100)

COUPON = "coupon"


class DiscountView(TypedDict):
    """A discount in effect on a subscription. `applied`: on how many invoices it took something off so far."""

    coupon: str | None
    percent: str | None
    amount: str | None
    duration: Literal["once", "repeating", "forever"]
    periods: int | None
    applied: int


def to_view(stored: Mapping[str, Any]) -> DiscountView:
    return {
        "coupon": stored.get("coupon"),
        "percent": stored.get("percent"),
        "amount": stored.get("amount"),
        "duration": stored.get("duration", "forever"),
        "periods": stored.get("periods"),
        "applied": stored.get("applied", 0),
    }


def check_discounts(discounts: Sequence[Mapping[str, Any]]) -> None:
    """Each is `{coupon}`, `{percent}` of at most 100, or `{amount}`, no coupon twice. Raises Reject."""
    seen: set[str] = set()
    for index, discount in enumerate(discounts):
        where = pointer("discounts", index, COUPON)
        reference = discount.get(COUPON)
        if reference is None:
            _check_percent(read_discount(Fields(discount, pointer("discounts", index))), index)
            continue
        if not isinstance(reference, str) or not reference:
            raise Reject.at(where, "request.invalid_field", "Name the coupon by its key, id or code.")
        for name in discount:
            if name != COUPON:
                raise Reject.at(
                    pointer("discounts", index, name), "request.unknown_field", "The coupon says all there is to say."
                )
        if reference in seen:
            raise Reject.at(where, "coupon.already_redeemed", "The coupon is named twice.")
        seen.add(reference)


def _check_percent(discount: Discount, index: int) -> None:
    """No more than all comes off anyway; who sends more has most likely slipped by a digit."""
    if isinstance(discount, PercentDiscount) and discount.percent > HUNDRED:
        raise Reject.at(pointer("discounts", index, "percent"), "pricing.invalid_discount", "Must be at most 100.")


def set_discounts(
    connection: PgConnection, subscription: BilledSubscription, bodies: Sequence[Mapping[str, Any]], *, now: datetime
) -> None:
    """Let these be all discounts of a subscription that is stored and locked. Raises as `redeem_all` does."""
    stored = redeem_all(
        connection,
        bodies,
        subscription.discounts,
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.id,
        currency=subscription.currency,
        now=now,
    )
    save_discounts(connection, subscription_id=subscription.id, discounts=stored)


def redeem_all(
    connection: PgConnection,
    bodies: Sequence[Mapping[str, Any]],
    present: Sequence[Mapping[str, Any]],
    *,
    tenant_id: str,
    subscription_id: str,
    currency: str,
    now: datetime,
) -> list[dict[str, Any]]:
    """The discounts as they are stored once these bodies are all that the subscription has.

    One that it has already stays as it is, with its count; a coupon that it has not is redeemed. Coupons are locked in
    the order of their ids, so that two callers never wait for each other crosswise. The subscription must be stored.

    Raises Reject `coupon.not_found`, `coupon.currency_mismatch`, and Conflict `coupon.archived`, `coupon.expired`,
    `coupon.used_up`, `coupon.already_redeemed`, each with the pointer.
    """
    found = {
        index: find_coupon(connection, tenant_id, str(body[COUPON]), index)
        for index, body in enumerate(bodies)
        if COUPON in body
    }
    own = [dict(each) for each in present if COUPON not in each]
    redeemed = {str(each["coupon_id"]): dict(each) for each in present if COUPON in each}
    taken: dict[int, dict[str, Any]] = {}
    for index, row in sorted(found.items(), key=lambda item: item[1]["id"]):
        stored = redeemed.pop(row["id"], None)
        taken[index] = stored or _redeem(
            connection,
            row["id"],
            index,
            tenant_id=tenant_id,
            subscription_id=subscription_id,
            currency=currency,
            now=now,
        )
    return [taken[index] if index in taken else _own(body, own) for index, body in enumerate(bodies)]


def find_coupon(connection: PgConnection, tenant_id: str, reference: str, index: int) -> Row:
    """The coupon that the discount at `index` names. Raises Reject."""
    row = coupons.load_coupon(connection, tenant_id=tenant_id, reference=reference)
    if row is None:
        where = pointer("discounts", index, COUPON)
        raise Reject.at(where, "coupon.not_found", f"There is no coupon {reference!r}.")
    return row


def _redeem(
    connection: PgConnection,
    coupon_id: str,
    index: int,
    *,
    tenant_id: str,
    subscription_id: str,
    currency: str,
    now: datetime,
) -> dict[str, Any]:
    row = lock_redeemable(connection, coupon_id, index, tenant_id=tenant_id, currency=currency, now=now)
    if not coupons.add_redemption(connection, coupon_id=coupon_id, subscription_id=subscription_id, now=now):
        where = pointer("discounts", index, COUPON)
        raise _conflict(where, "coupon.already_redeemed", f"The subscription has redeemed {row['key']!r} before.")
    return {
        **terms_of(row),
        "duration": row["duration"],
        **({} if row["periods"] is None else {"periods": row["periods"]}),
        "applied": 0,
    }


def lock_redeemable(
    connection: PgConnection, coupon_id: str, index: int, *, tenant_id: str, currency: str, now: datetime
) -> Row:
    """A coupon of which one more redemption is left, locked. Raises as `redeem_all` does."""
    row = coupons.load_coupon(connection, tenant_id=tenant_id, reference=coupon_id, lock=True)
    assert row is not None, "coupons are never removed"
    where, key = pointer("discounts", index, COUPON), row["key"]
    if row["archived_at"] is not None:
        raise _conflict(where, "coupon.archived", f"Coupon {key!r} is archived.")
    if row["expires_at"] is not None and row["expires_at"] <= now:
        raise _conflict(where, "coupon.expired", f"Coupon {key!r} has expired.")
    if row["currency"] not in (None, currency):
        raise Reject.at(
            where, "coupon.currency_mismatch", f"The coupon is in {row['currency']}, what it is for in {currency}."
        )
    if row["max_redemptions"] is not None and row["redemptions"] >= row["max_redemptions"]:
        raise _conflict(where, "coupon.used_up", f"Coupon {key!r} has been redeemed as often as it may be.")
    return row


def terms_of(row: Row) -> dict[str, Any]:
    """What a coupon takes off, and which it is, as discounts are stored."""
    value = {"percent": row["percent"]} if row["amount"] is None else {"amount": row["amount"]}
    return {
        "coupon": row["key"],
        "coupon_id": row["id"],
        **{name: format_decimal(number) for name, number in value.items()},
    }


def _own(body: Mapping[str, Any], present: list[dict[str, Any]]) -> dict[str, Any]:
    """The subscription's own discount, taken over with its count if it has the same already."""
    for position, each in enumerate(present):
        if all(each.get(name) == body.get(name) for name in ("percent", "amount")):
            return present.pop(position)
    return {**body, "duration": "forever", "applied": 0}


def _conflict(where: str, code: str, detail: str) -> Conflict:
    return Conflict(code, detail, errors=(FieldError(pointer=where, code=code, detail=detail),))
