"""What a tenant does, made by Hypothesis: small parts that collide often, so that few examples meet many rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from tests.oracle.answers import Query
from tests.oracle.ledger import INVALID_VALUE, UNKNOWN_SUBJECT, Event, Identity
from tests.oracle.rules import Expression, Filter, Meter, Number, Operation, Path

#: Where events lie and queries begin and end: about the hours at which clocks somewhere jump, and an ordinary one.
MOMENTS = (
    datetime(2025, 3, 9, 7, tzinfo=UTC),  # New York springs forward
    datetime(2025, 11, 2, 6, tzinfo=UTC),  # and falls back
    datetime(2025, 10, 4, 15, 30, tzinfo=UTC),  # Lord Howe moves by half an hour
    datetime(2025, 3, 30, 1, tzinfo=UTC),  # Berlin springs forward, at the end of a week and almost of a month
    datetime(2025, 6, 17, 12, tzinfo=UTC),
)
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe", "Europe/Berlin", "Asia/Kathmandu")
#: The longest range that windows of a size are asked for.
RANGES = {
    "minute": timedelta(hours=5),
    "hour": timedelta(days=4),
    "day": timedelta(days=300),
    "week": timedelta(days=300),
    "month": timedelta(days=300),
    "none": timedelta(days=300),
}

TYPES = ("llm", "llm", "llm", "seat")
CUSTOMERS = {"acme": ("acme-eu",), "beta": ()}  # from the beginning
LATER_CUSTOMERS = {"late": ("late-eu",), "later": ()}
SUBJECTS = ("acme", "acme-eu", "beta", "late", "late-eu", "later")
PROPERTIES = ("region", "model")

#: JSON texts of values: what floats get wrong, ties of rounding on both sides of zero, strings that are numbers.
NUMBERS = (
    "1", "2", "0", "-3", "0.1", "0.2", "-0.30", "1e2", "7.0", '"2.50"', '"-1"', "123456789012345.123456789012",
    "0.0000000000005", "-0.0000000000015", "0.00000000000049", "null",
)  # fmt: skip
ODD_NUMBERS = ('"many"', "true", "{}", "[1]", '""', "1e40")
WORDS = ('"eu"', '"us"', "1", "1.0", '"1"', "true", "false", "null", "2.5", '"EU"')
LITERALS: tuple[str | bool | Decimal, ...] = ("eu", "us", "1", True, False, Decimal(1), Decimal("2.5"))


@dataclass(frozen=True)
class Send:
    """One request."""

    events: tuple[Event, ...]


@dataclass(frozen=True)
class AddCustomer:
    external_id: str


@dataclass(frozen=True)
class SetMeter:
    """Make a meter, or change the one of this key."""

    meter: Meter


@dataclass(frozen=True)
class Void:
    """Take back one of the events sent so far; the number counts on from the first, round and round."""

    number: int


@dataclass(frozen=True)
class Replay:
    code: str | None


@dataclass(frozen=True)
class KillFlow:
    """SIGKILL the flow, and go on at once."""


Step = Send | AddCustomer | SetMeter | Void | Replay | KillFlow


@dataclass(frozen=True)
class Script:
    meters: tuple[Meter, ...]
    steps: tuple[Step, ...]
    queries: tuple[Query, ...]

    def __str__(self) -> str:
        return "\n".join(["", *map(str, self.meters), *map(str, self.steps), *map(str, self.queries)])


def _moments(microseconds: Sequence[int]) -> st.SearchStrategy[datetime]:
    seconds = st.integers(-90, 90).map(lambda minutes: minutes * 60) | st.integers(-7200, 7200)
    after = st.builds(timedelta, seconds=seconds, microseconds=st.sampled_from(microseconds))
    return st.tuples(st.sampled_from(MOMENTS), after).map(lambda pair: pair[0] + pair[1])


@st.composite
def _data(draw: st.DrawFn) -> str:
    numbers = st.sampled_from(NUMBERS) if draw(st.integers(0, 11)) else st.sampled_from(ODD_NUMBERS)
    fields = draw(
        st.fixed_dictionaries(
            {"n": numbers},
            optional={"m": st.sampled_from(NUMBERS), "region": st.sampled_from(WORDS), "model": st.sampled_from(WORDS),
                      "deep": st.sampled_from(NUMBERS).map(lambda text: f'{{"n": {text}}}')},
        )
    )  # fmt: skip
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


events = st.builds(
    Event,
    id=st.integers(0, 25).map(lambda number: f"e{number}"),
    type=st.sampled_from(TYPES),
    subject=st.sampled_from(SUBJECTS),
    time=_moments((0, 0, 1, 500_000, 999_999)),
    data=_data(),
    source=st.sampled_from(("api", "api", "api", "other")),
)


def _order_is_known(request: Sequence[Event]) -> bool:
    """Events of one request have no order among partitions: where time decides, no two have the same."""
    first: dict[Identity, Event] = {}
    for event in request:
        first.setdefault(event.identity, event)
    return len({event.time for event in first.values()}) == len(first)


def _requests(max_size: int) -> st.SearchStrategy[Send]:
    return st.lists(events, min_size=1, max_size=max_size).filter(_order_is_known).map(tuple).map(Send)


_paths = st.sampled_from((Path(("n",)), Path(("m",)), Path(("deep", "n"))))
_expressions: st.SearchStrategy[Expression] = st.recursive(
    _paths,
    lambda parts: st.builds(
        Operation, st.sampled_from("+-*"), parts, parts | st.sampled_from((Number("3"), Number("0.25")))
    ),
    max_leaves=3,
)


@st.composite
def _filters(draw: st.DrawFn) -> Filter:
    path = draw(st.sampled_from((Path(("region",)), Path(("model",)), Path(("n",)))))
    op = draw(st.sampled_from(("eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "exists")))
    if op == "exists":
        return Filter(path, op, draw(st.sampled_from(((), (True,), (False,)))))
    if op in ("in", "not_in"):
        return Filter(path, op, tuple(draw(st.lists(st.sampled_from(LITERALS), min_size=1, max_size=3))))
    ordered = tuple(literal for literal in LITERALS if not isinstance(literal, bool))
    return Filter(path, op, (draw(st.sampled_from(LITERALS if op in ("eq", "ne") else ordered)),))


@st.composite
def meters(draw: st.DrawFn, key: str) -> Meter:
    aggregation = draw(st.sampled_from(("count", "sum", "min", "max", "avg", "latest", "unique_count", "weighted_sum")))
    value = {"count": st.none(), "unique_count": st.sampled_from((Path(("region",)), Path(("n",))))}
    return Meter(
        key=key,
        event_type=draw(st.sampled_from(TYPES)),
        aggregation=aggregation,
        value=draw(value.get(aggregation, _expressions)),
        filters=tuple(draw(st.lists(_filters(), max_size=2))),
        group_by=tuple(draw(st.lists(st.sampled_from(PROPERTIES), unique=True))),
    )


@st.composite
def _queries(draw: st.DrawFn, key: str) -> Query:
    """Without groups and filters by groups, which depend on what the meter is in the end: see `player`."""
    window = draw(st.sampled_from(tuple(RANGES)))
    start = draw(_moments((0, 0, 1)))
    length = draw(st.integers(1, int(RANGES[window].total_seconds())) | st.just(3600))
    return Query(
        meter=key,
        start=start,
        end=start + timedelta(seconds=length),
        window=window,
        zone=draw(st.sampled_from(ZONES)),
        customer=draw(st.sampled_from((None, None, "acme", "beta"))),
        by_customer=draw(st.booleans()),
        group_by=tuple(draw(st.lists(st.sampled_from(PROPERTIES), unique=True))),
        filters=draw(st.sampled_from(({}, {}, {"region": ("eu",)}, {"model": ("1", "true")}))),
    )


#: Voids and replays, which the API does not offer yet.
WITH_CHANGES = True
_CHANGES: list[st.SearchStrategy[Step]] = [
    st.integers(0, 30).map(Void),
    st.integers(0, 30).map(Void),
    st.sampled_from((None, INVALID_VALUE, UNKNOWN_SUBJECT)).map(Replay),
]


@st.composite
def scripts(draw: st.DrawFn, *, max_steps: int = 8, max_events: int = 12, kills: bool = False) -> Script:
    keys = ["a", "b", "c"][: draw(st.integers(1, 3))]
    steps = [
        _requests(max_events),
        _requests(max_events),
        _requests(max_events),
        st.sampled_from(tuple(LATER_CUSTOMERS)).map(AddCustomer),
        st.sampled_from([*keys, "d"]).flatmap(meters).map(SetMeter),
        *(_CHANGES if WITH_CHANGES else []),
        *([st.just(KillFlow())] if kills else []),
    ]
    return Script(
        meters=tuple(draw(meters(key)) for key in keys),
        steps=(draw(_requests(max_events)), *draw(st.lists(st.one_of(steps), max_size=max_steps))),
        queries=tuple(draw(st.lists(st.sampled_from([*keys, "d"]).flatmap(_queries), max_size=6))),
    )
