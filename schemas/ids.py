"""Identifiers: a prefix that names the kind, then a UUIDv7, so that ids sort by the time they were made."""

from datetime import datetime
from enum import StrEnum

from uuid_utils import uuid7

from schemas.instants import to_micros

UUID_DIGITS = 32
TIME_DIGITS = 12  # of a UUIDv7, in hexadecimal: milliseconds since 1970


class Prefix(StrEnum):
    """One prefix a kind of object; it stands before the underscore of every id."""

    TENANT = "ten"
    API_KEY = "key"
    USER = "usr"
    CUSTOMER = "cus"
    METER = "met"
    FEATURE = "fea"
    ENTITLEMENT = "ent"  # of a customer's own
    PLAN = "pln"
    ADDON = "add"
    COUPON = "cpn"
    SUBSCRIPTION = "sub"
    INVOICE = "inv"
    INVOICE_LINE = "ivl"
    TAX_RATE = "txr"
    PAYMENT = "pay"
    REFUND = "ref"
    PAYMENT_PROVIDER = "ppr"
    CREDIT_NOTE = "crn"
    WALLET = "wal"
    GRANT = "gra"
    WALLET_TRANSACTION = "wtx"
    TEST_CLOCK = "clk"
    RESERVATION = "rsv"
    SYSTEM_EVENT = "evt"
    WEBHOOK_ENDPOINT = "whe"
    WEBHOOK_DELIVERY = "whd"
    ALERT = "alr"
    REQUEST = "req"


def new_id(prefix: Prefix) -> str:
    """A new id, e.g. `cus_0198f2c3a1b27c3d8e4f5a6b7c8d9e0f`. Later ids sort after earlier ones."""
    return f"{prefix}_{uuid7().hex}"


def first_id(prefix: Prefix, instant: datetime) -> str:
    """What sorts after every id made in the milliseconds before that of the instant, and not after its own."""
    return f"{prefix}_{to_micros(instant) // 1000:0{TIME_DIGITS}x}".ljust(len(prefix) + 1 + UUID_DIGITS, "0")
