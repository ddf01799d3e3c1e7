"""What credit notes take back: never more than is left, and all of it in the end."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.credit_notes import credit_amount, credit_lines
from schemas.credit_notes import Credited, CreditedInvoice, LineCredit
from schemas.errors import Reject

CENT = Decimal("0.01")


def invoice(lines: Sequence[str], total: str, taxes: Sequence[str] = ()) -> CreditedInvoice:
    return CreditedInvoice(
        currency="EUR",
        total=Decimal(total),
        lines=[Decimal(line) for line in lines],
        taxes=[Decimal(tax) for tax in taxes],
        credited=Decimal(0),
        credited_lines={},
        credited_taxes=[Decimal(0)] * len(taxes),
    )


def after(state: CreditedInvoice, note: Credited) -> CreditedInvoice:
    """The invoice once the note is written."""
    lines = dict(state.credited_lines)
    for place, taken in note.lines.items():
        before = lines.get(place, LineCredit(amount=Decimal(0), total=Decimal(0)))
        lines[place] = LineCredit(amount=before.amount + taken.amount, total=before.total + taken.total)
    return CreditedInvoice(
        currency=state.currency,
        total=state.total,
        lines=state.lines,
        taxes=state.taxes,
        credited=state.credited + note.amount,
        credited_lines=lines,
        credited_taxes=[one + more for one, more in zip(state.credited_taxes, note.taxes, strict=True)],
    )


def test_a_line_taken_back_takes_its_tax_and_its_share_of_the_discount_with_it() -> None:
    # 100 + 50, less 15, plus 20% of 135: 162
    state = invoice(["100", "50"], "162.00", ["27.00"])
    note = credit_lines(state, {1: (Decimal(50), "/lines/0/amount")})
    assert (note.amount, note.taxes) == (Decimal("54.00"), (Decimal("9.00"),))
    rest = credit_amount(after(state, note), Decimal("108.00"))
    assert rest.lines[0] == LineCredit(amount=Decimal("100.00"), total=Decimal("108.00"))
    assert rest.taxes == (Decimal("18.00"),)


@pytest.mark.parametrize(
    ("amount", "line", "code"),
    [("162.01", None, "credit_note.exceeds_invoice"), (None, "100.01", "credit_note.exceeds_line")],
    ids=["invoice", "line"],
)
def test_more_than_is_left_is_refused(amount: str | None, line: str | None, code: str) -> None:
    state = invoice(["100", "50"], "162.00", ["27.00"])
    with pytest.raises(Reject, match=code):
        credit_amount(state, Decimal(amount)) if amount else credit_lines(state, {0: (Decimal(line or 0), "/lines/0")})


def test_a_line_that_gave_something_has_nothing_to_take_back() -> None:
    state = invoice(["100", "-20"], "80.00")
    with pytest.raises(Reject):
        credit_lines(state, {1: (CENT, "/lines/0/amount")})
    with pytest.raises(Reject) as refused:
        credit_lines(state, {0: (Decimal(100), "/lines/0/amount")})
    assert refused.value.code == "credit_note.exceeds_invoice"
    assert credit_amount(state, Decimal(80)).lines[0].total == Decimal(80)


cents = st.integers(1, 100_000)


@given(data=st.data(), lines=st.lists(cents, min_size=1, max_size=6), taxes=st.lists(st.integers(0, 30), max_size=3))
def test_any_notes_add_up_to_the_invoice_and_leave_nothing_negative(
    data: Any, lines: list[int], taxes: list[int]
) -> None:
    subtotal = sum(lines)
    base = subtotal - data.draw(st.integers(0, subtotal - 1))
    amounts = [(base * rate + 50) // 100 for rate in taxes]
    total = base + sum(amounts)
    state = invoice([str(line * CENT) for line in lines], str(total * CENT), [str(tax * CENT) for tax in amounts])
    while state.credited < state.total:
        left = int((state.total - state.credited) / CENT)
        if data.draw(st.booleans()):
            note = credit_amount(state, data.draw(st.integers(1, left)) * CENT)
        else:
            place = data.draw(st.integers(0, len(lines) - 1))
            try:
                note = credit_lines(state, {place: (data.draw(cents) * CENT, "/lines/0/amount")})
            except Reject:
                note = credit_amount(state, left * CENT)
        assert sum(line.total for line in note.lines.values()) == note.amount
        assert all(line.total >= 0 and line.amount >= 0 for line in note.lines.values())
        assert all(tax >= 0 for tax in note.taxes)
        state = after(state, note)
        assert all(taken.amount <= state.lines[place] for place, taken in state.credited_lines.items())
    assert state.credited_taxes == state.taxes
    assert sum(taken.total for taken in state.credited_lines.values()) == state.total
