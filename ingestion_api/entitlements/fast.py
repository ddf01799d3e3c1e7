"""`POST /v1/entitlements/check` out of memory, as long as the replica knows the answer and the body is plainly good."""

import re
from decimal import Decimal

import msgspec

from ingestion_api import clock
from ingestion_api.auth import Principal, Scope
from ingestion_api.context import Context
from ingestion_api.entitlements.book import Ask
from ingestion_api.entitlements.prepared import PreparedAnswers
from ingestion_api.entitlements.routes import MAX_CHECKS
from ingestion_api.fields import MAX_EXTERNAL_ID_LENGTH
from ingestion_api.raw import JSON_TYPE, Application, RawPost

PATH = "/v1/entitlements/check"

_PLAIN_QUANTITY = re.compile(r"[0-9]{1,26}(\.[0-9]{1,12})?")


class _Check(msgspec.Struct, forbid_unknown_fields=True):
    customer: str
    feature: str
    quantity: str | int | None = None


class _Checks(msgspec.Struct, forbid_unknown_fields=True):
    checks: list[_Check]


_decode_one = msgspec.json.Decoder(_Check).decode
_decode_many = msgspec.json.Decoder(_Checks).decode


def check_route(context: Context, others: Application) -> RawPost:
    """In front of `others`, which answers all checks."""
    prepared = PreparedAnswers(context.replica, context.stored_usage)

    async def answer(principal: Principal, body: bytes, _request_id: str) -> tuple[int, bytes, bytes] | None:
        asks = _read_asks(body)
        answers = None if asks is None else prepared.answer(asks[1], principal, clock.now())
        if asks is None or answers is None:
            return None
        return 200, JSON_TYPE, b'{"object":"list","data":[%b]}' % b",".join(answers) if asks[0] else answers[0]

    return RawPost(PATH, Scope.CHECK, context.keys, answer, others)


def _read_asks(body: bytes) -> tuple[bool, list[Ask]] | None:
    """Whether they are several, and the checks; None: not plainly good."""
    bulk = b'"checks"' in body
    try:
        checks = _decode_many(body).checks if bulk else [_decode_one(body)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not 1 <= len(checks) <= MAX_CHECKS:
        return None
    asks: list[Ask] = []
    for check in checks:
        if not (is_name(check.customer) and is_name(check.feature)):
            return None
        quantity = None
        if check.quantity is not None:
            text = str(check.quantity)
            if not _PLAIN_QUANTITY.fullmatch(text):
                return None
            quantity = Decimal(text)
        asks.append(Ask(check.customer, check.feature, quantity))
    return bulk, asks


def is_name(text: str) -> bool:
    """Whether a text can name a customer or a feature."""
    return 1 <= len(text) <= MAX_EXTERNAL_ID_LENGTH and text.isprintable()
