"""What passes between the store and pricing when a credit note is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCredit:
    """Of a line: `amount` in terms of the line's own amount, `total` in terms of the invoice's total."""

    amount: Decimal
    total: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditedInvoice:
    """A final invoice and what credit notes have taken of it so far: of its lines, by place, of its taxes, in order,
    and in all."""

    currency: str
    total: Decimal
    lines: Sequence[Decimal]
    taxes: Sequence[Decimal]
    credited: Decimal
    credited_lines: Mapping[int, LineCredit]
    credited_taxes: Sequence[Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credited:
    """What one more note takes: `amount` with tax, `taxes` of it in the order of the invoice's, `lines` by place."""

    amount: Decimal
    taxes: tuple[Decimal, ...]
    lines: Mapping[int, LineCredit]
