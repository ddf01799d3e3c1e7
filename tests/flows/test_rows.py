"""Rows of values hold exactly what was taken."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from flows.attribute import attribute
from flows.combine import combine
from flows.fields import MAX_WHOLE, SCALE
from flows.rows import usage_rows, value_rows
from schemas.meters import Aggregation
from schemas.money import EXACT
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import Sent, meter

units = st.integers(-(MAX_WHOLE * SCALE) + 1, MAX_WHOLE * SCALE - 1)


def summed(numbers: list[int]) -> Fraction:
    """What a meter of sums stores of events of one minute with these values, in units of 10^-12."""
    texts = [f'{{"v": {Decimal(number).scaleb(-12, EXACT):f}}}' for number in numbers]
    events = [Sent(id=f"e{index}", data=text) for index, text in enumerate(texts)]
    total = meter(1, aggregation=Aggregation.SUM, value="$.v")
    judged = attribute(columns(events), catalogue_of([total], {"acme": 1}))
    rows = usage_rows(judged, combine(judged), shard=0, seq=1)
    assert rows is not None
    return sum((Fraction(row["total"]) for row in rows.to_pylist()), Fraction(0))


def taken(numbers: list[int]) -> list[Fraction]:
    """What a meter of values stores of events with these values, in units of 10^-12."""
    texts = [f'{{"v": {Decimal(number).scaleb(-12, EXACT):f}}}' for number in numbers]
    events = [Sent(id=f"e{index}", data=text) for index, text in enumerate(texts)]
    latest = meter(1, aggregation=Aggregation.LATEST, value="$.v")
    rows = value_rows(attribute(columns(events), catalogue_of([latest], {"acme": 1})), shard=0, seq=1)
    assert rows is not None
    return [Fraction(row["value"]) for row in sorted(rows.to_pylist(), key=lambda row: row["kafka_index"])]


@given(numbers=st.lists(units, min_size=1, max_size=60))
@example(numbers=[-1, 0, 1, -SCALE, SCALE, 18446744073709551615, 18446744073709551616, -18446744073709551617])
@example(numbers=[(1 << 64) - 1 + (7 << 64), -(1 << 64), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1])
@example(numbers=[MAX_WHOLE * SCALE - 1, -(MAX_WHOLE * SCALE) + 1])
def test_a_value_is_stored_to_its_last_digit(numbers: list[int]) -> None:
    assert taken(numbers) == [Fraction(number, SCALE) for number in numbers]


@given(numbers=st.lists(units, min_size=1, max_size=60))
@example(numbers=[((1 << 62) // SCALE) * SCALE, SCALE - 1] * 30)
@example(numbers=[1 - ((1 << 62) // SCALE) * SCALE, -SCALE + 1] * 30)
@example(numbers=[(1 << 63) - 1])
@example(numbers=[-(1 << 63) - 1, -1])
def test_a_sum_is_stored_to_its_last_digit_below_and_beyond_64_bits(numbers: list[int]) -> None:
    assert summed(numbers) == Fraction(sum(numbers), SCALE)


def test_a_value_beyond_all_columns_is_stored_too() -> None:
    assert taken([10**49, -(10**37) - 7]) == [Fraction(10**49, SCALE), Fraction(-(10**37) - 7, SCALE)]


def test_a_meter_that_took_nothing_has_no_rows() -> None:
    judged = attribute(columns([Sent(id="e1")]), catalogue_of([meter(1, aggregation=Aggregation.MAX)], {"acme": 1}))
    assert value_rows(judged, shard=0, seq=1) is None
