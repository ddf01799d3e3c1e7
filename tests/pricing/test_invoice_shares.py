"""Shares of an invoice's discounts and taxes add up to them, whatever the lines."""

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pricing.invoice_shares import Shared, share_out
from schemas.money import EXACT

CENTS = st.integers(-10_000_00, 10_000_00).map(lambda cents: Decimal(cents).scaleb(-2))
OWNERS = st.sampled_from([None, "sub_1", "sub_2"])


def total(numbers: list[Decimal]) -> Decimal:
    return sum(numbers, Decimal(0))


@given(
    lines=st.lists(st.tuples(CENTS, OWNERS), min_size=1, max_size=8),
    discounts=st.lists(st.tuples(CENTS, OWNERS), max_size=3),
    unnamed=CENTS,
    taxes=st.lists(st.tuples(CENTS, st.booleans()), max_size=3),
    unnamed_tax=CENTS,
)
def test_the_shares_of_the_lines_are_the_whole(
    lines: list[tuple[Decimal, str | None]],
    discounts: list[tuple[Decimal, str | None]],
    unnamed: Decimal,
    taxes: list[tuple[Decimal, bool]],
    unnamed_tax: Decimal,
) -> None:
    discount = EXACT.add(total([taken for taken, _ in discounts]), unnamed)
    added = EXACT.add(total([amount for amount, inclusive in taxes if not inclusive]), unnamed_tax)
    named: list[dict[str, Any]] = [{"taken": str(taken), "subscription": owner} for taken, owner in discounts]
    shares = share_out(
        Shared(
            currency="USD",
            lines=lines,
            discounts=named,
            discount=discount,
            taxes=[{"amount": str(amount), "inclusive": inclusive} for amount, inclusive in taxes],
            added_tax=added,
        )
    )
    assert len(shares) == len(lines)
    assert total([share.discount for share in shares]) == discount
    assert total([share.added_tax for share in shares]) == added
    assert total([share.included_tax for share in shares]) == total([each for each, inclusive in taxes if inclusive])
    parts = [part for share in shares for part in (share.discount, share.added_tax, share.included_tax)]
    assert {part.as_tuple().exponent for part in parts} == {-2}


def test_a_discount_of_a_subscription_falls_on_its_lines_alone() -> None:
    shares = share_out(
        Shared(
            currency="JPY",
            lines=[(Decimal(100), "sub_1"), (Decimal(100), "sub_2"), (Decimal(50), "sub_1")],
            discounts=[{"taken": "31", "subscription": "sub_1"}],
            discount=Decimal(31),
            taxes=[],
            added_tax=Decimal(0),
        )
    )
    assert [share.discount for share in shares] == [21, 0, 10]


def test_an_invoice_without_lines_shares_nothing() -> None:
    nothing = Decimal(0)
    assert (
        share_out(Shared(currency="USD", lines=[], discounts=[], discount=nothing, taxes=[], added_tax=nothing)) == []
    )
