"""The ten pricing models: what each is made of, and how it is read from a price's fields.

A record's field names are the wire's names. Whatever is derived (labels, lower bounds, look-ups) takes no part in
comparison or serialization.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from pricing.explain import ZERO
from pricing.fields import INVALID_FIELD, Fields
from pricing.matrix import Matrix, read_matrix
from pricing.tiers import (
    AmountTier,
    RateTier,
    UnitTier,
    ZeroQuantity,
    read_amount_tier,
    read_rate_tier,
    read_tiers,
    read_unit_tier,
    read_zero,
)

INVALID_MODEL = "pricing.invalid_model"
ONE = Decimal(1)


class Rounding(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """`amount`, whatever the quantity is."""

    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    unit_amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Whole packages: a started one counts (`up`) or does not (`down`)."""

    package_size: Decimal
    package_amount: Decimal
    rounding: Rounding = Rounding.UP


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each part of the quantity at its own tier."""

    tiers: tuple[UnitTier, ...]
    zero_quantity: ZeroQuantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """All of the quantity at the tier it lands in."""

    tiers: tuple[UnitTier, ...]
    zero_quantity: ZeroQuantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stairstep:
    """The amount of the tier the quantity lands in."""

    tiers: tuple[AmountTier, ...]
    zero_quantity: ZeroQuantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduatedPercentage:
    """Each part of an amount of money at its tier's rate."""

    tiers: tuple[RateTier, ...]
    zero_quantity: ZeroQuantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage:
    """A share of each transaction, and what is added to it. An allowance of 0 is none."""

    rate: Decimal  # percent
    fixed_amount: Decimal = ZERO
    free_transactions: int = 0
    free_amount: Decimal = ZERO
    transaction_minimum: Decimal | None = None
    transaction_maximum: Decimal | None = None

    @property
    def is_rate_alone(self) -> bool:
        """Whether the sum of the transactions is all that matters."""
        return not (
            self.fixed_amount
            or self.free_transactions
            or self.free_amount
            or self.transaction_minimum
            or self.transaction_maximum is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """The quantity is money already."""

    multiplier: Decimal = ONE


Model: TypeAlias = (
    Flat | PerUnit | Package | Graduated | Volume | Stairstep | Percentage | GraduatedPercentage | Matrix | Dynamic
)


def read_model(fields: Fields) -> Model:
    """The model named by `model`, from its fields. Raises Reject, `pricing.invalid_*`."""
    name = fields.take("model")
    reader = READERS.get(name) if isinstance(name, str) else None
    if reader is None:
        raise fields.wrong("model", INVALID_MODEL, f"must be one of {', '.join(READERS)}")
    return reader(fields)


def read_flat(fields: Fields) -> Flat:
    return Flat(amount=fields.decimal("amount"))


def read_per_unit(fields: Fields) -> PerUnit:
    return PerUnit(unit_amount=fields.decimal("unit_amount"))


def read_package(fields: Fields) -> Package:
    return Package(
        package_size=fields.decimal("package_size", above=ZERO),
        package_amount=fields.decimal("package_amount"),
        rounding=fields.choice("rounding", Rounding, Rounding.UP),
    )


def read_graduated(fields: Fields) -> Graduated:
    return Graduated(tiers=read_tiers(fields, read_unit_tier), zero_quantity=read_zero(fields))


def read_volume(fields: Fields) -> Volume:
    return Volume(tiers=read_tiers(fields, read_unit_tier), zero_quantity=read_zero(fields))


def read_stairstep(fields: Fields) -> Stairstep:
    return Stairstep(tiers=read_tiers(fields, read_amount_tier), zero_quantity=read_zero(fields))


def read_graduated_percentage(fields: Fields) -> GraduatedPercentage:
    return GraduatedPercentage(tiers=read_tiers(fields, read_rate_tier), zero_quantity=read_zero(fields))


def read_percentage(fields: Fields) -> Percentage:
    minimum = fields.optional_decimal("transaction_minimum", at_least=ZERO)
    maximum = fields.optional_decimal("transaction_maximum", at_least=ZERO)
    if minimum is not None and maximum is not None and minimum > maximum:
        raise fields.wrong("transaction_maximum", INVALID_FIELD, "must not be below transaction_minimum")
    return Percentage(
        rate=fields.decimal("rate"),
        fixed_amount=fields.decimal("fixed_amount", ZERO),
        free_transactions=fields.integer("free_transactions", 0),
        free_amount=fields.decimal("free_amount", ZERO, at_least=ZERO),
        transaction_minimum=minimum,
        transaction_maximum=maximum,
    )


def read_dynamic(fields: Fields) -> Dynamic:
    return Dynamic(multiplier=fields.decimal("multiplier", ONE))


READERS: Mapping[str, Callable[[Fields], Model]] = {
    "flat": read_flat,
    "per_unit": read_per_unit,
    "package": read_package,
    "graduated": read_graduated,
    "volume": read_volume,
    "stairstep": read_stairstep,
    "percentage": read_percentage,
    "graduated_percentage": read_graduated_percentage,
    "matrix": read_matrix,
    "dynamic": read_dynamic,
}

#: The wire's name of each model.
NAMES: Mapping[type[Model], str] = {
    Flat: "flat",
    PerUnit: "per_unit",
    Package: "package",
    Graduated: "graduated",
    Volume: "volume",
    Stairstep: "stairstep",
    Percentage: "percentage",
    GraduatedPercentage: "graduated_percentage",
    Matrix: "matrix",
    Dynamic: "dynamic",
}
