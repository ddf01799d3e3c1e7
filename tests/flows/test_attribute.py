"""Attributing by columns and combining to minutes says what the rule says of each event by itself."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows import attribute as attribute_module
from flows.attribute import attribute, judge
from flows.attributed import Status
from flows.combine import combine
from flows.fields import SCALE
from flows.rows import value_rows
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import to_micros
from schemas.matching import event_groups, event_text, event_value, matches, parse_data
from schemas.meters import BY_VALUE, Aggregation, Filter, FilterOperator
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import NOON, Sent, meter, minute_of


def rule(path: str, op: str, *values: str) -> Filter:
    return Filter(path, FilterOperator(op), values)


METERS = [
    meter(1, value="$.v"),
    meter(2, aggregation=Aggregation.COUNT, value=None, filters=(rule("$.f", "eq", '"x"'),)),
    meter(3, value="$.deep.v", group_by=("g", "f")),
    meter(4, value="$.v", group_by=("g",), filters=(rule("$.f", "in", "1", "true", '"x"'),)),
    meter(5, aggregation=Aggregation.AVG, value="$.v + 2 * $.w", group_by=("deep",)),
    meter(6, aggregation=Aggregation.MIN, value="$.v - $.w", filters=(rule("$.f", "ne", '"x"'),)),
    meter(7, aggregation=Aggregation.MAX, value="$.w", filters=(rule("$.f", "gt", "1"),)),
    meter(8, aggregation=Aggregation.LATEST, value="0.5 * $.v * $.w - (1.25 - -$.w)", group_by=("g",)),
    meter(9, aggregation=Aggregation.UNIQUE_COUNT, value="$.v", group_by=("f",)),
    meter(10, aggregation=Aggregation.UNIQUE_COUNT, value="$.deep.v", filters=(rule("$.deep.v", "exists", "true"),)),
    meter(11, aggregation=Aggregation.WEIGHTED_SUM, value="$.w", filters=(rule("$.f", "not_in", '"x"', "1"),)),
    meter(12, aggregation=Aggregation.COUNT, value=None, filters=(rule("$.f", "lte", '"x"'),)),
    meter(13, value="$.v * $.v * $.w", filters=(rule("$.g", "exists", "false"),)),
    meter(14, value="0.0000001 * $.v * 0.0000001", filters=(rule("$.f", "gte", "1"), rule("$.w", "lt", "5"))),
    meter(15, aggregation=Aggregation.UNIQUE_COUNT, value="$.deep"),
]
SUBJECTS = {"acme": 1, "beta": 2}

numbers = st.one_of(
    st.integers(-5, 5).map(str),
    st.integers(-(10**39), 10**39).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=14, min_value=-(10**6), max_value=10**6).map(str),
    st.sampled_from(["0." + "3" * 700, "-7." + "5" * 599, "1." + "0" * 900, "3" * 700, "0.5" + "0" * 700 + "1"]),
    st.sampled_from(
        ["1e3", "1.50", "1e-13", "5e-13", "-5e-13", "1e37", "1e38", "0e99", "1e400", "1e99999999999999999999"]
    ),
    st.sampled_from([f"{1 << 40}", f"{(1 << 40) - 1}", f"-{1 << 40}", f"{1 << 63}", f"{10**12}.5", "9" * 5000]),
)
scalars = st.one_of(
    numbers,
    numbers.map(lambda number: f'"{number}"'),
    st.sampled_from(
        ['"x"', '"y"', '""', '" 5"', '"1_0"', '"NaN"', "true", "false", "null", '{"v":1}', '"\\ud800"', '"é\\u0000"']
    ),
    st.sampled_from(["1", "1.0", '"1"', "0", "10e-1"]),
    st.sampled_from(
        ["[1.0]", "[1.00]", '["1.0"]', '{"v":{"v":1e0}}', '{"v":"\\ud800"}', '{"w":"\\ud800","v":2}', "[[]]"]
    ),
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "v": scalars,
        "w": scalars,
        "f": scalars,
        "g": scalars,
        "deep": scalars.map(lambda v: f'{{"v":{v}}}'),
        "other": scalars,
    },
).map(lambda parts: "{" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "}")
plain_values = st.one_of(st.integers(-3, 1 << 41).map(str), st.sampled_from(["1.5", "0.000000000001", "null", '"x"']))
plain = st.fixed_dictionaries(
    {"v": plain_values, "w": plain_values}, optional={"f": scalars, "g": scalars, "deep": scalars}
).map(lambda parts: "{" + ",".join(f'"{name}": {text}' for name, text in parts.items()) + "}")
texts = st.one_of(
    plain,
    plain,
    objects,
    objects,
    st.sampled_from(["", "5", "{", "null", "{}", '{"v":1,"v":2}', "[]", '{"v":' + "[" * 5000 + "]" * 5000 + "}"]),
)
sent = st.tuples(
    texts,
    st.sampled_from(["acme", "beta", "nobody"]),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(-200, 200),
    st.sampled_from(["llm.request", "llm.request", "other"]),
)

Key = tuple[int, int, Any, tuple[str, ...]]


Row = tuple[int, int, int, int, Fraction, str, tuple[str, ...]]  # meter, customer, index, effect, value, text, group


@dataclass
class Expected:
    """What becomes of each event, the minutes, and the rows of values, judged one at a time with fractions."""

    states: dict[str, tuple[Status, str]]
    minutes: dict[Key, tuple[int, Fraction]]
    values: list[Row]


def by_the_rule(events: list[Sent], meters: list[MeterEntry], effects: list[int], *, decided: bool) -> Expected:
    expected = Expected({}, defaultdict(lambda: (0, Fraction(0))), [])
    for index, (event, effect) in enumerate(zip(events, effects, strict=True)):
        if event.subject not in SUBJECTS:
            expected.states[event.id] = (Status.QUARANTINED, "event.unknown_subject")
            continue
        looking = meters if (event.tenant_no, event.type) == (1, "llm.request") else []
        expected.states[event.id] = (Status.UNMATCHED, "")
        try:
            taken = judge_one(event, looking, decided=decided)
        except Reject as reason:
            expected.states[event.id] = (Status.QUARANTINED, reason.code)
            continue
        if taken:
            expected.states[event.id] = (Status.COUNTED, "")
        customer = SUBJECTS[event.subject] + 100
        for looked, value, text, groups in taken:
            if value is None:
                continue
            if looked.aggregation in BY_VALUE:
                expected.values.append((looked.meter_no, customer, index, effect, value, text, groups))
            else:
                key = (looked.meter_no, customer, minute_of(event.time), groups)
                count, total = expected.minutes[key]
                # A count has no sum: what stands there for it is as good as any.
                total += 0 if looked.aggregation is Aggregation.COUNT else effect * value
                expected.minutes[key] = (count + effect, total)
    return expected


Taken = tuple[MeterEntry, Fraction | None, str, tuple[str, ...]]


def judge_one(event: Sent, meters: list[MeterEntry], *, decided: bool) -> list[Taken]:
    """What each meter that matches takes. Raises Reject, unless it is decided about the event."""
    if not meters:
        return []
    data = parse_data(event.text)
    found: list[Taken] = []
    for looked in meters:
        if matches(looked, data):
            try:
                found.append((looked, *take(looked, data)))
            except Reject:
                if not decided:
                    raise
    return found


def take(looked: MeterEntry, data: dict[str, object]) -> tuple[Fraction | None, str, tuple[str, ...]]:
    value = event_value(looked, data)
    if value is None:
        return None, "", ()  # an event that gives the meter nothing has no group: an unreadable one can't spoil it
    return Fraction(value), event_text(looked, data), event_groups(looked, data)


@pytest.mark.parametrize("few", [0, 1_000], ids=["by columns", "one by one"])
@pytest.mark.parametrize("decided", [False, True], ids=["fresh", "decided"])
@settings(deadline=None, max_examples=120)
@given(
    drawn=st.lists(sent, min_size=1, max_size=30),
    meters=st.one_of(
        st.sampled_from(METERS).map(lambda one: [one]),
        st.lists(st.sampled_from(METERS), unique_by=lambda m: m.meter_no),
    ),
    taking_back=st.sets(st.integers(0, 29)),
)
@example(drawn=[('{"f": 1e99999999999999999999}', "acme", 1, 0, "llm.request")], meters=METERS[:4], taking_back=set())
def test_columns_say_what_the_rule_says_of_each_event(
    few: int,
    decided: bool,
    drawn: list[tuple[str, str, int, int, str]],
    meters: list[MeterEntry],
    taking_back: set[int],
) -> None:
    events = [
        Sent(
            id=f"e{index}",
            data=text,
            subject=subject,
            tenant_no=tenant,
            time=NOON + timedelta(seconds=second, microseconds=index),
            type=kind,
        )
        for index, (text, subject, tenant, second, kind) in enumerate(drawn)
    ]
    events.sort(key=lambda event: event.tenant_no)  # as `columns` has them: a message a tenant
    effects = [-1 if index in taking_back else 1 for index in range(len(events))]
    catalogue = catalogue_of(meters, SUBJECTS, tenants=(1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_module, "FEW_EVENTS", few)
        judged = attribute(columns(events), catalogue)
        if decided:
            judged = judge(judged.events, judged.customers, catalogue.meters, decided=True)
    if taking_back:
        judged.effects = np.array(effects, np.int8)
    expected = by_the_rule(events, meters, effects, decided=decided)
    if not decided:  # else what became of them is known already
        assert {
            event_id: (Status(state), judged.codes.get(row, ""))
            for row, (event_id, state) in enumerate(
                zip(judged.events.ids.to_pylist(), judged.status.tolist(), strict=True)
            )
        } == expected.states
    assert minutes_of(judged) == expected.minutes
    assert values_of(judged) == sorted(expected.values)


def minutes_of(judged: attribute_module.Attributed) -> dict[Key, tuple[int, Fraction]]:
    names = list(judged.texts)
    found: dict[Key, tuple[int, Fraction]] = {}
    for minutes in combine(judged):
        counts = minutes.meter.aggregation is Aggregation.COUNT
        for row, units in enumerate(minutes.units):
            groups = tuple(names[column[row]] for column in minutes.groups)
            at = NOON.fromtimestamp(int(minutes.minutes[row]) * 60, NOON.tzinfo)
            key = (minutes.meter.meter_no, int(minutes.customers[row]), at, groups)
            assert key not in found, "a key stands twice in one batch"
            found[key] = (int(minutes.counts[row]), Fraction(0 if counts else units, SCALE))
    return found


def values_of(judged: attribute_module.Attributed) -> list[Row]:
    """The rows of `usage_values`, by the place of the event in the batch."""
    table = value_rows(judged, shard=3, seq=7)
    if table is None:
        return []
    places = {
        (int(offset), int(index)): row
        for row, (offset, index) in enumerate(zip(judged.events.offsets, judged.events.indexes, strict=True))
    }
    found: list[Row] = []
    for row in table.to_pylist():
        place = places[row["kafka_offset"], row["kafka_index"]]
        assert (row["shard"], row["seq"], row["revision"], row["kafka_partition"]) == (3, 7, 1, 0)
        assert to_micros(row["occurred_at"]) == judged.events.occurred_at[place]
        assert to_micros(row["received_at"]) == judged.events.received_at[place]
        found.append(
            (
                row["meter_no"],
                row["customer_no"],
                place,
                row["effect"],
                Fraction(row["value"]),
                row["text"],
                tuple(row["group_values"]),
            )
        )
    return sorted(found)


def test_a_batch_of_the_largest_ordinary_values_sums_exactly() -> None:
    value = (1 << 40) - 1
    events = [Sent(id=f"e{index}", data={"v": value}) for index in range(9_000)]
    judged = attribute(columns(events), catalogue_of(METERS[:1], SUBJECTS))
    assert [units for minutes in combine(judged) for units in minutes.units] == [9_000 * value * SCALE]


def test_a_customer_of_another_tenant_is_unknown() -> None:
    events = [Sent(id="mine"), Sent(id="theirs", tenant_no=2)]
    judged = attribute(columns(events), catalogue_of(METERS, SUBJECTS, tenants=(1,)))
    assert judged.customers.tolist() == [101, 0]
    assert judged.codes == {1: "event.unknown_subject"}
