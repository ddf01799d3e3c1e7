"""A price: a model, the modifiers round it, and, in a plan, the terms it is billed on.

`parse_price` and `parse_plan_price` are the only readers of prices (request bodies, stored plans, golden cases);
`serialize` is their exact inverse: parse(serialize(price)) == price.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from dataclasses import fields as record_fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import cast

from pricing.changes import CHANGES, TERMS, chain
from pricing.explain import ZERO
from pricing.fields import INVALID_CURRENCY, INVALID_FIELD, Fields
from pricing.models import NAMES, ONE, Model, Percentage, read_model
from pricing.periods import MAX_BILLING_PERIOD_COUNT, BillingPeriod
from schemas.instants import format_instant
from schemas.meters import Aggregation
from schemas.money import MAX_DIGITS, MAX_SCALE, format_decimal

HUNDRED = Decimal(100)
MAX_CHANGES = 100  # of one price


class PriceType(StrEnum):
    FIXED = "fixed"
    USAGE = "usage"


class Timing(StrEnum):
    ADVANCE = "advance"
    ARREARS = "arrears"


class Bucket(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    HALF_YEAR = "half_year"
    YEAR = "year"


class ConversionRounding(StrEnum):
    NONE = "none"
    UP = "up"
    DOWN = "down"
    HALF_UP = "half_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitConversion:
    """Metered units to priced units. Rounding is symmetric about zero."""

    divide_by: Decimal
    rounding: ConversionRounding = ConversionRounding.NONE
    precision: int = 0  # digits after the point; negative: tens, hundreds, …


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """A cost promised: above it the excess costs `overage_factor` times, below it `true_up` makes up the difference."""

    amount: Decimal
    overage_factor: Decimal = ONE
    true_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomUnit:
    """What a price's amounts are in (credits, tokens), and what one of it is worth in the currency."""

    code: str
    conversion_rate: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a quantity costs: the model, and modifiers that apply in the order given in `pricing.rating`.

    `is_bare`: a quantity goes to the model as it is, and what that says is the cost.
    """

    type: PriceType = PriceType.USAGE
    model: Model
    bucket: Bucket | None = None
    bucket_aggregation: Aggregation | None = None
    unit_conversion: UnitConversion | None = None
    included_quantity: Decimal = ZERO
    discount_percent: Decimal = ZERO
    maximum_amount: Decimal | None = None
    minimum_amount: Decimal | None = None
    commitment: Commitment | None = None
    custom_unit: CustomUnit | None = None
    is_bare: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modifiers = (self.bucket, self.unit_conversion, self.maximum_amount, self.minimum_amount, self.commitment)
        is_modified = any(each is not None for each in (*modifiers, self.custom_unit))
        needs_transactions = isinstance(self.model, Percentage) and not self.model.is_rate_alone
        is_bare = not (is_modified or self.included_quantity or self.discount_percent or needs_transactions)
        object.__setattr__(self, "is_bare", is_bare)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """What a price is from an instant on."""

    at: datetime
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPrice:
    """A price in a plan: what it is called, what it measures, and when it is billed."""

    key: str
    price: Price
    meter: str | None  # of usage prices, None in fixed ones
    currency: str
    billing_period: BillingPeriod = BillingPeriod.MONTH
    billing_period_count: int = 1
    timing: Timing
    prorate: bool
    changes: tuple[PriceChange, ...] = ()  # ascending

    def in_effect(self, instant: datetime) -> "PlanPrice":
        """The price as it is at an instant: after every change up to it, and with none to come."""
        if not self.changes:
            return self
        made = [change.price for change in self.changes if change.at <= instant]
        return replace(self, price=made[-1] if made else self.price, changes=())


def parse_price(body: object, pointer: str = "", *, currency: str | None = None) -> Price:
    """A price from its body. Terms of a plan (`key`, `meter`, `billing_period`, …) may stand there; they are checked.

    Without `type` it is a usage price. Raises Reject: `pricing.invalid_*` or `request.unknown_field`, with the pointer
    of the field under `pointer`.
    """
    fields = Fields(body, pointer)
    price = read_price(fields)
    read_terms(fields, price, currency=currency, default_key="price")
    fields.done()
    return price


def parse_plan_price(body: object, pointer: str = "", *, currency: str) -> PlanPrice:
    """A price of a plan in `currency`: `key`, `type` and, for usage, `meter` are required. Raises Reject.

    Defaults: billed every month, fixed prices in advance and prorated.
    """
    fields = Fields(body, pointer)
    for name in ("key", "type"):
        fields.take(name)
    price = read_price(fields)
    if price.type is PriceType.USAGE:
        fields.take("meter")
    terms = read_terms(fields, price, currency=currency, default_key=None)
    changes = read_changes(fields, cast("Mapping[str, object]", body)) if fields.has(CHANGES) else ()
    fields.done()
    return replace(terms, changes=changes) if changes else terms


def serialize(price: Price | PlanPrice) -> dict[str, object]:
    """The body of a price: decimals as text, what is absent left out. `parse_…` of it gives an equal price."""
    if isinstance(price, PlanPrice):
        terms = plain(replace(price, changes=()))
        del terms["price"], terms[CHANGES]
        changes = [{"at": format_instant(each.at), **serialize(each.price)} for each in price.changes]
        return {**terms, **serialize(price.price), **({CHANGES: changes} if changes else {})}
    body = plain(price)
    del body["model"]
    if not price.included_quantity:
        del body["included_quantity"]  # a matrix refuses it, even an empty one
    return {"model": NAMES[type(price.model)], **body, **plain(price.model)}


def read_price(fields: Fields) -> Price:
    type_ = fields.choice("type", PriceType, PriceType.USAGE)
    bucket = fields.optional_choice("bucket", Bucket)
    aggregation = fields.optional_choice("bucket_aggregation", Aggregation)
    if (bucket is None) != (aggregation is None):
        missing = "bucket" if bucket is None else "bucket_aggregation"
        raise fields.wrong(missing, INVALID_FIELD, "bucket and bucket_aggregation stand together")
    if bucket is not None and type_ is PriceType.FIXED:
        raise fields.wrong("bucket", INVALID_FIELD, "a fixed price has no usage to put in buckets")
    return Price(
        type=type_,
        model=read_model(fields),
        bucket=bucket,
        bucket_aggregation=aggregation,
        unit_conversion=read_conversion(fields.child("unit_conversion")) if fields.has("unit_conversion") else None,
        included_quantity=fields.decimal("included_quantity", ZERO, at_least=ZERO),
        discount_percent=fields.decimal("discount_percent", ZERO, at_least=ZERO, at_most=HUNDRED),
        maximum_amount=fields.optional_decimal("maximum_amount", at_least=ZERO),
        minimum_amount=fields.optional_decimal("minimum_amount", at_least=ZERO),
        commitment=read_commitment(fields.child("commitment")) if fields.has("commitment") else None,
        custom_unit=read_custom_unit(fields.child("custom_unit")) if fields.has("custom_unit") else None,
    )


def read_custom_unit(fields: Fields) -> CustomUnit:
    unit = CustomUnit(code=fields.text("code"), conversion_rate=fields.decimal("conversion_rate", above=ZERO))
    fields.done()
    return unit


def read_changes(fields: Fields, body: Mapping[str, object]) -> tuple[PriceChange, ...]:
    """The later prices of a price. A change names `at` and what it changes; its terms are those of the price."""
    type_ = body["type"]
    own = {name: value for name, value in body.items() if name == "type" or name not in (*TERMS, CHANGES)}
    given: list[tuple[datetime, Mapping[str, object]]] = []
    places: list[str] = []
    for child in fields.children(CHANGES, at_most=MAX_CHANGES):
        at = child.instant("at")
        if given and at <= given[-1][0]:
            raise child.wrong("at", INVALID_FIELD, "must be later than the change before")
        if child.has("type") and child.take("type") != type_:
            raise child.wrong("type", INVALID_FIELD, f"must be {type_}, as the price is")
        given.append((at, child.rest()))
        places.append(child.pointer)
    return tuple(
        PriceChange(at=each.at, price=read_changed(Fields({**each.body, "type": type_}, place)))
        for each, place in zip(chain(own, given), places, strict=True)
    )


def read_changed(fields: Fields) -> Price:
    price = read_price(fields)
    fields.done()
    return price


def read_conversion(fields: Fields) -> UnitConversion:
    conversion = UnitConversion(
        divide_by=fields.decimal("divide_by", above=ZERO),
        rounding=fields.choice("rounding", ConversionRounding, ConversionRounding.NONE),
        precision=fields.integer("precision", 0, at_least=-MAX_DIGITS, at_most=MAX_SCALE),
    )
    fields.done()
    return conversion


def read_commitment(fields: Fields) -> Commitment:
    """A commitment, of a price or of a subscription."""
    commitment = Commitment(
        amount=fields.decimal("amount", at_least=ZERO),
        overage_factor=fields.decimal("overage_factor", ONE, at_least=ONE),
        true_up=fields.flag("true_up", False),
    )
    fields.done()
    return commitment


def read_terms(fields: Fields, price: Price, *, currency: str | None, default_key: str | None) -> PlanPrice:
    is_fixed = price.type is PriceType.FIXED
    if is_fixed and fields.has("meter"):
        raise fields.wrong("meter", INVALID_FIELD, "a fixed price has no meter")
    own_currency = fields.currency("currency") if fields.has("currency") else currency
    if currency is not None and own_currency != currency:
        raise fields.wrong("currency", INVALID_CURRENCY, f"must be {currency}, as all around it")
    timing = fields.choice("timing", Timing, Timing.ADVANCE if is_fixed else Timing.ARREARS)
    if not is_fixed and timing is not Timing.ARREARS:
        raise fields.wrong("timing", INVALID_FIELD, "usage is known at the end of a period: its timing is arrears")
    prorate = fields.flag("prorate", is_fixed)
    if prorate and not is_fixed:
        raise fields.wrong("prorate", INVALID_FIELD, "usage is never prorated")
    return PlanPrice(
        key=default_key if default_key is not None and not fields.has("key") else fields.text("key"),
        price=price,
        meter=fields.text("meter") if fields.has("meter") else None,
        currency=own_currency or "",
        billing_period=fields.choice("billing_period", BillingPeriod, BillingPeriod.MONTH),
        billing_period_count=fields.integer("billing_period_count", 1, at_least=1, at_most=MAX_BILLING_PERIOD_COUNT),
        timing=timing,
        prorate=prorate,
    )


def plain(record: object) -> dict[str, object]:
    """A record's own fields as JSON-like values. None is left out, save the open bound of a last tier."""
    assert is_dataclass(record)
    return {
        own.name: plain_value(value)
        for own in record_fields(record)
        if own.compare and ((value := getattr(record, own.name)) is not None or own.name == "up_to")
    }


def plain_value(value: object) -> object:
    match value:
        case None | bool() | int():
            return value
        case StrEnum():
            return value.value
        case str():
            return value
        case Decimal():
            return format_decimal(value)
        case tuple():
            return [plain_value(item) for item in cast("tuple[object, ...]", value)]
        case Mapping():
            return dict(cast("Mapping[str, object]", value))
        case _:
            return plain(value)
