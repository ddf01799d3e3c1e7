"""Tiers: half-open steps (after, up_to] of a quantity that cover everything above 0, in order, without a gap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar, cast

from pricing.explain import ZERO
from pricing.fields import Fields, read_decimal
from schemas.money import format_decimal

INVALID_TIERS = "pricing.invalid_tiers"
MAX_TIERS = 1_000
PERCENT = Decimal("0.01")


class ZeroQuantity(StrEnum):
    """Written only to turn off the first tier's flat at quantity 0."""

    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Quantities in (after, up_to]. What the three tier records share stands here."""

    up_to: Decimal | None  # inclusive; None in the last tier
    after: Decimal = field(compare=False)  # exclusive: the bound of the tier before, 0 in the first
    label: str = field(compare=False)  # how an explanation names the tier
    flat_label: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flat_label", f"flat_amount of {self.label}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTier(Tier):
    unit_amount: Decimal = ZERO
    flat_amount: Decimal = ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountTier(Tier):
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class RateTier(Tier):
    rate: Decimal  # percent
    flat_amount: Decimal = ZERO

    @property
    def unit_amount(self) -> Decimal:
        """What one unit of money in this tier costs. Arithmetic must run under EXACT."""
        return self.rate * PERCENT


TierRecord = TypeVar("TierRecord", bound=Tier)


def read_tiers(
    fields: Fields, read: Callable[[Fields, Decimal | None, Decimal, str], TierRecord]
) -> tuple[TierRecord, ...]:
    """Tiers whose bounds strictly increase from above 0 and whose last, and only the last, is open."""
    body = fields.take("tiers") if fields.has("tiers") else None
    if not isinstance(body, list | tuple) or not body:
        raise fields.wrong("tiers", INVALID_TIERS, "must be a list of tiers whose last is open")
    items = cast("Sequence[object]", body)
    if len(items) > MAX_TIERS:
        raise fields.wrong("tiers", INVALID_TIERS, f"has {len(items)} tiers; {MAX_TIERS} is the limit")
    tiers: list[TierRecord] = []
    after = ZERO
    for index, item in enumerate(items):
        tier = Fields(item, f"{fields.at('tiers')}/{index}", code=INVALID_TIERS)
        up_to = read_bound(tier, after=after, is_last=index == len(items) - 1)
        tiers.append(read(tier, up_to, after, tier_label(index + 1, after, up_to)))
        tier.done()
        after = up_to or after
    return tuple(tiers)


def read_bound(tier: Fields, *, after: Decimal, is_last: bool) -> Decimal | None:
    value = tier.take("up_to")
    if is_last:
        if value is not None:
            raise tier.wrong(
                "up_to", INVALID_TIERS, "must be null in the last tier, so that every quantity has a price"
            )
        return None
    if value is None:
        raise tier.wrong("up_to", INVALID_TIERS, "may be null in the last tier only")
    up_to = read_decimal(value, tier.at("up_to"), INVALID_TIERS)
    if up_to <= after:
        raise tier.wrong("up_to", INVALID_TIERS, f"must be more than {format_decimal(after)}: bounds increase")
    return up_to


def tier_label(number: int, after: Decimal, up_to: Decimal | None) -> str:
    if up_to is None:
        return f"tier {number}: above {format_decimal(after)}"
    return f"tier {number}: above {format_decimal(after)}, up to {format_decimal(up_to)}"


def read_unit_tier(tier: Fields, up_to: Decimal | None, after: Decimal, label: str) -> UnitTier:
    return UnitTier(
        up_to=up_to,
        after=after,
        label=label,
        unit_amount=tier.decimal("unit_amount", ZERO),
        flat_amount=tier.decimal("flat_amount", ZERO),
    )


def read_amount_tier(tier: Fields, up_to: Decimal | None, after: Decimal, label: str) -> AmountTier:
    return AmountTier(up_to=up_to, after=after, label=label, amount=tier.decimal("amount"))


def read_rate_tier(tier: Fields, up_to: Decimal | None, after: Decimal, label: str) -> RateTier:
    return RateTier(
        up_to=up_to,
        after=after,
        label=label,
        rate=tier.decimal("rate"),
        flat_amount=tier.decimal("flat_amount", ZERO),
    )


def read_zero(fields: Fields) -> ZeroQuantity | None:
    return fields.optional_choice("zero_quantity", ZeroQuantity)
