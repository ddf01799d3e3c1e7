"""What a meter takes from an event: exactly what its JSON says, or a clear refusal."""

from decimal import Decimal

import pytest

from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.filters import literal_text
from schemas.matching import (
    Quantity,
    event_groups,
    event_quantity,
    event_text,
    event_value,
    group_text,
    matches,
    parse_data,
)
from schemas.meters import Aggregation, Filter, FilterOperator


def meter(**fields: object) -> MeterEntry:
    given: dict[str, object] = {
        "meter_no": 1,
        "revision": 1,
        "event_type": "t",
        "aggregation": Aggregation.SUM,
        "value": "$.v",
        "filters": (),
        "group_by": (),
    }
    return MeterEntry(**(given | fields))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "value", "rounded"),
    [
        ("1", "1", False),
        ("-7", "-7", False),
        ("1.50", "1.5", False),
        ("1e3", "1000", False),
        ('"2.5"', "2.5", False),
        ('"1e-3"', "0.001", False),
        ("0.30000000000000004", "0.3", True),
        ("0.1000000000000", "0.1", False),
        ("0.0000000000005", "0.000000000001", True),
        ("-0.0000000000005", "-0.000000000001", True),
        ("0.00000000000049", "0", True),
        ("1e-999999999", "0", True),
        ("0e999999", "0", False),
        ("9" * 38, "9" * 38, False),
        ("1e37", "1" + "0" * 37, False),
        ("12345678901234567890123456.123456789012", "12345678901234567890123456.123456789012", False),
    ],
)
def test_a_number_is_taken_exactly_or_rounded_to_12_digits(text: str, value: str, rounded: bool) -> None:
    assert event_quantity(meter(), parse_data(f'{{"v": {text}}}')) == Quantity(Decimal(value), rounded=rounded)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "false",
        '"many"',
        '""',
        '" 5"',
        '"1_000"',
        '"NaN"',
        '"Infinity"',
        '"１"',
        "[1]",
        '{"a":1}',
        "1e38",
        "9" * 39,
        "9" * 5000,
        "1e99999999999999999999",
        "123456789012345678901234567.123456789012",
        '"' + "1" * 200 + '"',
    ],
)
def test_a_value_that_is_there_and_no_number_within_the_limits_is_refused(text: str) -> None:
    with pytest.raises(Reject) as refused:
        event_value(meter(), parse_data(f'{{"v": {text}}}'))
    assert refused.value.code == "event.invalid_value"


@pytest.mark.parametrize("text", ["", "5", "null", "[]", '{"v":}', '{"v":"\\ud800"}', '{"v":1} {}', '{"v":NaN}'])
def test_data_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(Reject) as refused:
        parse_data(text)
    assert refused.value.code == "event.invalid_data"


@pytest.mark.parametrize("text", ["{}", '{"v": null}', '{"v": {"a": 1}}', '{"v": 3}'])
def test_an_absent_or_null_value_takes_nothing(text: str) -> None:
    assert event_value(meter(value="$.v.b"), parse_data(text)) is None


def test_what_cannot_be_read_spoils_only_what_needs_it() -> None:
    data = parse_data('{"v": 1, "huge": ' + "9" * 5000 + "}")
    assert event_value(meter(), data) == 1
    assert not matches(meter(filters=(Filter("$.huge", FilterOperator.EQ, ("1",)),)), data)
    with pytest.raises(Reject):
        event_groups(meter(group_by=("huge",)), data)


@pytest.mark.parametrize(
    ("literal", "text", "same"),
    [
        (1, "1.0", True),
        (Decimal("1.50"), "1.5", True),
        (1000000, "1e6", True),
        (1, '"1"', False),
        (1, "true", False),
        (True, "true", True),
        (True, "1", False),
        ("a", '"a"', True),
        ("1", "1", False),
        ("a", "null", False),
        ("a", '["a"]', False),
        (Decimal("0.1"), "0.1000000000000000055511151231257827", False),
    ],
)
def test_filters_compare_numbers_as_numbers_and_nothing_across_kinds(literal: object, text: str, same: bool) -> None:
    rule = Filter("$.f", FilterOperator.EQ, (literal_text(literal),))  # pyright: ignore[reportArgumentType]
    assert matches(meter(filters=(rule,)), parse_data(f'{{"f": {text}}}')) == same


def test_filters_are_anded_and_in_takes_any_of_its_values() -> None:
    either = Filter("$.f", FilterOperator.IN, (literal_text("a"), literal_text("b")))
    also = Filter("$.deep.g", FilterOperator.EQ, (literal_text(True),))
    both = meter(filters=(either, also))
    assert matches(both, parse_data('{"f":"b","deep":{"g":true}}'))
    assert not matches(both, parse_data('{"f":"b","deep":{"g":false}}'))
    assert not matches(both, parse_data('{"f":"c","deep":{"g":true}}'))


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ('"m1"', "=m1"),
        ('""', "="),
        ("null", ""),
        ("1", "=1"),
        ("1.0", "=1"),
        ("1e0", "=1"),
        ("true", "=true"),
        ('["a",1.50]', '=["a",1.50]'),
        ("1e400", "=1E+400"),
    ],
)
def test_a_group_is_the_text_of_its_property(text: str, group: str) -> None:
    assert event_groups(meter(group_by=("g", "absent")), parse_data(f'{{"g": {text}}}')) == (group, "")
    assert group_text(parse_data(f'{{"g": {text}}}')["g"]) == group


@pytest.mark.parametrize("text", ["1" + "0" * 200, "1e200", "10E+199"])
def test_a_number_longer_than_any_is_one_group_however_it_is_written(text: str) -> None:
    assert group_text(parse_data(f'{{"g": {text}}}')["g"]) == "=1E+200"


@pytest.mark.parametrize(
    ("text", "counted"),
    [("1", "=1"), ("1.0", "=1"), ('"1"', "=1"), ("true", "=true"), ('["a"]', '=["a"]'), ('""', "="), ("null", "")],
)
def test_a_unique_count_takes_any_value_that_is_there(text: str, counted: str) -> None:
    unique = meter(aggregation=Aggregation.UNIQUE_COUNT)
    data = parse_data(f'{{"v": {text}}}')
    assert event_text(unique, data) == counted
    assert event_value(unique, data) == (Decimal(0) if counted else None)
    assert event_text(meter(), data) == ""


@pytest.mark.parametrize("text", ["9" * 5000, "1e99999999999999999999", '{"a": [1e99999999999999999999]}'])
def test_a_unique_count_of_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(Reject) as refused:
        event_value(meter(aggregation=Aggregation.UNIQUE_COUNT), parse_data(f'{{"v": {text}}}'))
    assert refused.value.code == "event.invalid_value"


@pytest.mark.parametrize("aggregation", [each for each in Aggregation if each not in ("count", "unique_count")])
def test_every_other_aggregation_takes_numbers(aggregation: Aggregation) -> None:
    looking = meter(aggregation=aggregation)
    assert event_value(looking, parse_data('{"v": "2.50"}')) == Decimal("2.5")
    assert event_value(looking, parse_data('{"v": null}')) is None
    with pytest.raises(Reject):
        event_value(looking, parse_data('{"v": "many"}'))


def test_what_cannot_be_read_does_not_hide_its_neighbours() -> None:
    data = parse_data('{"o": {"huge": ' + "9" * 5000 + ', "v": {"w": 3}}}')
    assert event_value(meter(value="$.o.v.w"), data) == 3
    assert event_value(meter(value="$.o.other"), data) is None
    for path in ("$.o.huge", "$.o.huge.deeper", "$.o"):
        with pytest.raises(Reject):
            event_value(meter(value=path), data)
    with pytest.raises(Reject):
        event_groups(meter(group_by=("o",)), data)


def test_data_nested_beyond_all_reason_is_refused() -> None:
    deep = "[" * 30_000 + "]" * 30_000
    with pytest.raises(Reject):
        event_value(meter(), parse_data(f'{{"v": {deep}}}'))
