"""Attributing by columns and combining to minutes says what the rule says of each event by itself."""

from collections import defaultdict
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows import attribute as attribute_module
from flows.attribute import Status, attribute
from flows.combine import combine
from flows.fields import SCALE
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.matching import event_groups, event_value, matches, parse_data
from schemas.meters import Aggregation, Filter, FilterOperator
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import NOON, Sent, meter, minute_of

METERS = [
    meter(1, value="$.v"),
    meter(2, aggregation=Aggregation.COUNT, value=None, filters=(Filter("$.f", FilterOperator.EQ, ('"x"',)),)),
    meter(3, value="$.deep.v", group_by=("g", "f")),
    meter(4, value="$.v", group_by=("g",), filters=(Filter("$.f", FilterOperator.IN, ("1", "true", '"x"')),)),
]
SUBJECTS = {"acme": 1, "beta": 2}

numbers = st.one_of(
    st.integers(-5, 5).map(str),
    st.integers(-(10**39), 10**39).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=14, min_value=-(10**6), max_value=10**6).map(str),
    st.sampled_from(["0." + "3" * 700, "-7." + "5" * 599, "1." + "0" * 900, "3" * 700, "0.5" + "0" * 700 + "1"]),
    st.sampled_from(["1e3", "1.50", "1e-13", "5e-13", "-5e-13", "1e37", "1e38", "0e99", "1e99999999999999999999"]),
    st.sampled_from([f"{1 << 40}", f"{(1 << 40) - 1}", f"-{1 << 40}", f"{1 << 63}", f"{10**12}.5", "9" * 5000]),
)
scalars = st.one_of(
    numbers,
    numbers.map(lambda number: f'"{number}"'),
    st.sampled_from(
        ['"x"', '"y"', '""', '" 5"', '"1_0"', '"NaN"', "true", "false", "null", "[1.0]", '{"v":1}', '"\\ud800"']
    ),
    st.sampled_from(["1", "1.0", '"1"', "0"]),
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "v": scalars,
        "f": scalars,
        "g": scalars,
        "deep": scalars.map(lambda v: f'{{"v":{v}}}'),
        "other": scalars,
    },
).map(lambda parts: "{" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "}")
texts = st.one_of(objects, objects, objects, st.sampled_from(["", "5", "{", "null", "{}", '{"v":1,"v":2}', "[]"]))
sent = st.builds(
    lambda text, subject, tenant, second, kind: (text, subject, tenant, second, kind),
    texts,
    st.sampled_from(["acme", "beta", "nobody"]),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(-200, 200),
    st.sampled_from(["llm.request", "llm.request", "other"]),
)

Key = tuple[int, int, Any, tuple[str, ...]]


def by_the_rule(events: list[Sent]) -> tuple[dict[str, tuple[Status, str]], dict[Key, tuple[int, Fraction]]]:
    """What becomes of each event, and the minutes, judged one at a time with fractions."""
    states: dict[str, tuple[Status, str]] = {}
    sums: dict[Key, tuple[int, Fraction]] = defaultdict(lambda: (0, Fraction(0)))
    for event in events:
        if event.subject not in SUBJECTS:
            states[event.id] = (Status.QUARANTINED, "event.unknown_subject")
            continue
        looking = METERS if (event.tenant_no, event.type) == (1, "llm.request") else []
        states[event.id] = (Status.UNMATCHED, "")
        try:
            taken = judge(event, looking)
        except Reject as reason:
            states[event.id] = (Status.QUARANTINED, reason.code)
            continue
        if taken:
            states[event.id] = (Status.COUNTED, "")
        for looked, value, groups in taken:
            if value is not None:
                key = (looked.meter_no, SUBJECTS[event.subject] + 100, minute_of(event.time), groups)
                count, total = sums[key]
                sums[key] = (count + 1, total + value)
    return states, dict(sums)


def judge(event: Sent, meters: list[MeterEntry]) -> list[tuple[MeterEntry, Fraction | None, tuple[str, ...]]]:
    if not meters:
        return []
    data = parse_data(event.text)
    found: list[tuple[MeterEntry, Fraction | None, tuple[str, ...]]] = []
    for looked in meters:
        if matches(looked, data):
            value = event_value(looked, data)
            # An event that gives the meter nothing has no group, so an unreadable one can't spoil it.
            found.append((looked, None, ()) if value is None else (looked, Fraction(value), event_groups(looked, data)))
    return found


@pytest.mark.parametrize("few", [0, 1_000], ids=["by columns", "one by one"])
@settings(deadline=None, max_examples=150)
@given(drawn=st.lists(sent, min_size=1, max_size=30))
@example(drawn=[('{"f": 1e99999999999999999999}', "acme", 1, 0, "llm.request")])
def test_columns_say_what_the_rule_says_of_each_event(few: int, drawn: list[tuple[str, str, int, int, str]]) -> None:
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribute_module, "FEW_EVENTS", few)
        judged = attribute(columns(events), catalogue_of(METERS, SUBJECTS, tenants=(1, 2)))
    states, sums = by_the_rule(events)
    assert {
        event_id: (Status(state), judged.codes.get(row, ""))
        for row, (event_id, state) in enumerate(zip(judged.events.ids.to_pylist(), judged.status.tolist(), strict=True))
    } == states
    assert minutes_of(judged) == sums


def minutes_of(judged: attribute_module.Attributed) -> dict[Key, tuple[int, Fraction]]:
    names = list(judged.texts)
    found: dict[Key, tuple[int, Fraction]] = {}
    for minutes in combine(judged):
        for row, units in enumerate(minutes.units):
            groups = tuple(names[column[row]] for column in minutes.groups)
            at = NOON.fromtimestamp(int(minutes.minutes[row]) * 60, NOON.tzinfo)
            key = (minutes.meter.meter_no, int(minutes.customers[row]), at, groups)
            assert key not in found, "a key stands twice in one batch"
            found[key] = (int(minutes.counts[row]), Fraction(units, SCALE))
    return found


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
