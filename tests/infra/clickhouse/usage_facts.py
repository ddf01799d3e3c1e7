"""Events for Hypothesis: few instants, so that they tie, odd values, some taken back; and ranges of time over them."""

from datetime import datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from schemas.money import format_decimal
from tests.infra.clickhouse.usage_oracle import START, Taken

ZONES = ["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
GROUPS = ["=m1", "=m2", ""]
values = st.one_of(
    st.decimals(-100, 100, places=3, allow_nan=False),
    st.sampled_from(
        [
            Decimal(99999999999999999999999999999999999999),
            Decimal("-99999999999999999999999999.999999999999"),
            Decimal("0.000000000001"),
            Decimal(0),
        ]
    ),
)
#: Few instants, so that events tie; whole minutes, odd seconds and single microseconds.
moments = st.tuples(
    st.sampled_from([0, 1, 2, 59, 60, 61, 479, 480, 540, 600, 1500]),
    st.sampled_from([0, 0, 1, 30_000_000, 59_999_999]),
).map(lambda after: START + timedelta(minutes=after[0], microseconds=after[1]))


@st.composite
def facts(draw: st.DrawFn) -> list[Taken]:
    events = draw(
        st.lists(
            st.tuples(st.sampled_from([1, 2, 3]), moments, values, *[st.sampled_from(GROUPS)] * 2),
            min_size=3,
            max_size=14,
        )
    )
    return [
        Taken(
            customer_no=customer_no,
            occurred_at=at,
            received_at=START + timedelta(hours=draw(st.sampled_from([0, 1]))),
            place=(draw(st.sampled_from([0, 1])), offset),
            groups={"model": model, "region": region},
            value=value,
            text=f"={format_decimal(value)}",
            voided=draw(st.integers(0, 2)) == 0,
        )
        for offset, (customer_no, at, value, model, region) in enumerate(events)
    ]


def ranges() -> st.SearchStrategy[tuple[datetime, datetime]]:
    ends = st.one_of(moments, moments.map(lambda at: at + timedelta(days=2)))
    return st.tuples(moments, ends).filter(lambda ends: ends[0] < ends[1])
