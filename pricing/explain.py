"""Explanations: rows that a person can add up by hand to the exact cost. They are the computation, not prose after it.

`Explanation` is where a cost comes into being: whatever is added to it is a row, and the cost is the sum of the rows.
"""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from schemas.money import format_decimal

ZERO = Decimal(0)


class ExplainRow(msgspec.Struct, frozen=True, gc=False):
    """One summand. With a quantity and a unit amount, `amount` is exactly their product; notes have amount 0.

    A struct, not a dataclass: rows are made by the million, and this is ten times cheaper to make.
    """

    what: str
    quantity: Decimal | None
    unit_amount: Decimal | None
    amount: Decimal


class Explanation:
    """A cost in the making. `total` is the sum of the amounts of `rows`, always."""

    __slots__ = ("even", "rows", "total")

    def __init__(self) -> None:
        self.rows: list[ExplainRow] = []
        self.total = ZERO
        self.even = True  # whether every division so far came out even

    def charge(self, what: str, quantity: Decimal, unit_amount: Decimal) -> None:
        """Add quantity x unit amount."""
        amount = quantity * unit_amount
        self.rows.append(ExplainRow(what, quantity, unit_amount, amount))
        self.total += amount

    def adjust(self, what: str, amount: Decimal) -> None:
        """Add an amount that is no product."""
        self.rows.append(ExplainRow(what, None, None, amount))
        self.total += amount

    def add(self, row: ExplainRow) -> None:
        self.rows.append(row)
        self.total += row.amount

    def note(self, what: str, quantity: Decimal | None = None) -> None:
        """Say what happened to the quantity; it costs nothing."""
        self.rows.append(ExplainRow(what, quantity, None, ZERO))

    def convert(self, what: str, rate: Decimal) -> None:
        """Let every amount so far be `rate` times itself, behind a row that says at which rate."""
        rows = [
            ExplainRow(
                row.what, row.quantity, None if row.unit_amount is None else row.unit_amount * rate, row.amount * rate
            )
            for row in self.rows
        ]
        self.rows = [ExplainRow(what, rate, None, ZERO), *rows]
        self.total *= rate

    def merge(self) -> None:
        """Join rows of the same rule and unit amount, as many buckets make them. The total stays."""
        joined: dict[tuple[str, Decimal | None], ExplainRow] = {}
        for row in self.rows:
            key = (row.what, row.unit_amount)
            other = joined.get(key)
            joined[key] = row if other is None else _join(other, row)
        self.rows = list(joined.values())


def _join(one: ExplainRow, other: ExplainRow) -> ExplainRow:
    neither = one.quantity is None or other.quantity is None
    quantity = None if neither else (one.quantity or ZERO) + (other.quantity or ZERO)
    return ExplainRow(one.what, quantity, one.unit_amount, one.amount + other.amount)


def to_wire(rows: Sequence[ExplainRow]) -> list[dict[str, str | None]]:
    """Rows as the API sends them: decimal text, null where a row is no product."""
    return [
        {
            "what": row.what,
            "quantity": None if row.quantity is None else format_decimal(row.quantity),
            "unit_amount": None if row.unit_amount is None else format_decimal(row.unit_amount),
            "amount": format_decimal(row.amount),
        }
        for row in rows
    ]
