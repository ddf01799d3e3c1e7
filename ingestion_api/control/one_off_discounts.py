"""Discounts of one-off invoices: their own, or those of coupons. An invoice redeems a coupon, whatever its duration: a
draft that loses it, or is deleted, gives the redemption back."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.postgres import coupons
from infra.postgres.pool import PgConnection
from ingestion_api.control.discount_terms import (
    COUPON,
    check_discounts,
    find_coupon,
    lock_redeemable,
    terms_of,
)

COUPON_ID = "coupon_id"

Discount = Mapping[str, Any]


def read_discounts(
    connection: PgConnection,
    bodies: Sequence[Discount],
    present: Sequence[Discount] = (),
    *,
    tenant_id: str,
    currency: str,
    now: datetime,
) -> list[dict[str, Any]]:
    """The discounts as they are stored: `{percent}`, `{amount}`, or either with `{coupon, coupon_id}`. A coupon of
    those `present` stays as it is; another one is locked, to be redeemed by `redeem` in the same transaction.

    Raises as `discount_terms.redeem_all` does.
    """
    check_discounts(bodies)
    found = {
        index: find_coupon(connection, tenant_id, str(body[COUPON]), index)
        for index, body in enumerate(bodies)
        if COUPON in body
    }
    kept = {each[COUPON_ID]: each for each in present if COUPON_ID in each}
    taken: dict[int, Discount] = {}
    for index, row in sorted(found.items(), key=lambda item: item[1]["id"]):
        taken[index] = kept.get(row["id"]) or terms_of(
            lock_redeemable(connection, row["id"], index, tenant_id=tenant_id, currency=currency, now=now)
        )
    return [{**taken.get(index, body)} for index, body in enumerate(bodies)]


def redeem(
    connection: PgConnection,
    invoice_id: str,
    discounts: Sequence[Discount],
    present: Sequence[Discount] = (),
    *,
    now: datetime,
) -> None:
    """Let an invoice that is stored redeem the coupons of its discounts, and give back those that it has no more."""
    after, before = _coupons_of(discounts), _coupons_of(present)
    coupons.drop_redemptions(connection, invoice_id=invoice_id, coupon_ids=sorted(before - after))
    for coupon_id in sorted(after - before):
        coupons.add_redemption(connection, coupon_id=coupon_id, invoice_id=invoice_id, now=now)


def _coupons_of(discounts: Sequence[Discount]) -> set[str]:
    return {each[COUPON_ID] for each in discounts if COUPON_ID in each}
