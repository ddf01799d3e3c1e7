"""The vectorized reader of instants says what the exact one says, or nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.intake.times import read_instants
from schemas.instants import parse_instant, to_micros

START = datetime(1, 1, 1, tzinfo=UTC)
instants = st.timedeltas(timedelta(0), timedelta(days=365 * 9990)).map(lambda since: START + since)
texts = st.builds(
    lambda instant, digits: (
        instant.strftime("%m-%dT%H:%M:%S").join((f"{instant.year:04d}-", ""))
        + (f".{instant.microsecond:06d}"[: digits + 1] if digits else "")
        + "Z"
    ),
    instants,
    st.integers(0, 6),
)


@given(st.lists(texts, min_size=1, max_size=30))
def test_common_instants_are_read_exactly(sent: list[str]) -> None:
    found = read_instants(sent)
    assert found is not None
    assert found.tolist() == [to_micros(parse_instant(text)) for text in sent]


beside = st.timedeltas(timedelta(0), timedelta(days=75)).map(lambda since: datetime(2027, 12, 25, tzinfo=UTC) + since)


@given(st.lists(beside, min_size=1, max_size=30))
def test_instants_of_dates_beside_each_other_are_read_exactly(sent: list[datetime]) -> None:
    found = read_instants([instant.strftime("%Y-%m-%dT%H:%M:%SZ") for instant in sent])
    assert found is not None
    assert found.tolist() == [to_micros(instant.replace(microsecond=0)) for instant in sent]


near = st.builds(
    lambda text, place, letter: text[: place % len(text)] + letter + text[place % len(text) + 1 :],
    texts,
    st.integers(0, 30),
    st.sampled_from("0123456789:-+TtZz. é٣\0x"),
)


@given(st.lists(st.one_of(texts, near, st.text(max_size=27)), min_size=1, max_size=4))
def test_whatever_it_reads_the_exact_reader_reads_the_same(sent: list[str]) -> None:
    found = read_instants(sent)
    if found is not None:
        assert found.tolist() == [to_micros(parse_instant(text)) for text in sent]


@pytest.mark.parametrize("bad", ["2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z",
                                 "2026-01-01T00:00:60Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00.Z"])  # fmt: skip
def test_what_is_no_instant_is_not_read(bad: str) -> None:
    assert read_instants(["2026-01-01T00:00:00Z", bad]) is None
