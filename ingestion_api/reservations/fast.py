"""`POST /v1/entitlements/reserve` without a framework, for requests that are plainly good.

All others go to the ordinary route: that one has the errors, the Idempotency-Key and the metadata. Both decide by the
same batches.
"""

import re
from decimal import Decimal

import msgspec

from ingestion_api import clock
from ingestion_api.auth import KeyCache, Principal, Scope
from ingestion_api.entitlements.fast import is_name
from ingestion_api.raw import JSON_TYPE, Application, RawPost
from ingestion_api.reservations.batches import ReserveBatches
from ingestion_api.reservations.reserve import Asked
from ingestion_api.reservations.routes import decide
from schemas.reservations import DEFAULT_TTL_SECONDS, MAX_TTL_SECONDS, MIN_TTL_SECONDS

PATH = "/v1/entitlements/reserve"

_PLAIN_QUANTITY = re.compile(r"(?!0+(\.0+)?$)[0-9]{1,26}(\.[0-9]{1,12})?")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    customer: str
    feature: str
    quantity: str | int
    ttl_seconds: int = DEFAULT_TTL_SECONDS


_decode = msgspec.json.Decoder(_Body).decode


def reserve_route(keys: KeyCache, batches: ReserveBatches, others: Application) -> RawPost:
    """In front of `others`, which answers all of it."""

    async def answer(principal: Principal, body: bytes, request_id: str) -> tuple[int, bytes, bytes] | None:
        asked = _read_asked(body, request_id)
        if asked is None:
            return None
        decided = await decide(batches, principal.tenant_id, asked)
        return decided.status, JSON_TYPE, decided.body

    return RawPost(PATH, Scope.CHECK, keys, answer, others)


def _read_asked(body: bytes, request_id: str) -> Asked | None:
    """None: not plainly good."""
    try:
        read = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    quantity = str(read.quantity)
    if not (is_name(read.customer) and is_name(read.feature) and _PLAIN_QUANTITY.fullmatch(quantity)):
        return None
    if not MIN_TTL_SECONDS <= read.ttl_seconds <= MAX_TTL_SECONDS:
        return None
    return Asked(
        customer=read.customer,
        feature=read.feature,
        quantity=Decimal(quantity),
        ttl_seconds=read.ttl_seconds,
        metadata={},
        now=clock.now(),
        key=None,
        request_sha256=b"",
        path=PATH,
        request_id=request_id,
    )
