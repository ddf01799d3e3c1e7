"""The oracle itself, against answers worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.oracle.answers import Query, answer
from tests.oracle.ledger import INVALID_VALUE, UNKNOWN_SUBJECT, Event, Ledger
from tests.oracle.rules import Filter, Meter, Operation, Path, passes, read, take
from tests.oracle.windows import window_of

N = Path(("n",))
NOON = datetime(2025, 6, 17, 12, tzinfo=UTC)


def event(event_id: str, data: str, minutes: float = 0, subject: str = "acme") -> Event:
    return Event(event_id, "llm", subject, NOON + timedelta(minutes=minutes), data)


def ledger_of(aggregation: str, *events: Event, group_by: tuple[str, ...] = ()) -> Ledger:
    ledger = Ledger()
    ledger.add_customer("acme", ())
    ledger.set_meter(Meter("m", "llm", aggregation, None if aggregation == "count" else N, group_by=group_by))
    for each in events:
        ledger.send(each)
    return ledger


def whole(ledger: Ledger, hours: float = 1) -> list[Decimal]:
    return list(answer(ledger, Query("m", NOON, NOON + timedelta(hours=hours))).values())


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("count", "4"), ("sum", "3.5"), ("min", "-1"), ("max", "2.5"), ("avg", "1.166666666667"), ("latest", "2"),
     ("unique_count", "3"), ("weighted_sum", "0.833333333333")],
)  # fmt: skip
def test_every_aggregation_of_three_values_and_an_absent_one(aggregation: str, expected: str) -> None:
    # The level is 0 for 10 minutes, 2.5 for 20, -1 for 20, 2 for 10: (50 - 20 + 20) / 60.
    events = [event("1", '{"n": "2.50"}', 10), event("2", '{"n": -1}', 30), event("3", '{"n": 2}', 50)]
    ledger = ledger_of(aggregation, *events, event("4", '{"n": null}', 20))
    assert whole(ledger) == [Decimal(expected)]


def test_a_level_holds_from_before_the_range_and_a_later_tie_wins() -> None:
    ledger = ledger_of("weighted_sum", event("1", '{"n": 4}', -500), event("2", '{"n": 6}', -500))
    assert whole(ledger) == [Decimal(6)]
    assert whole(ledger_of("latest", event("1", '{"n": 4}'), event("2", '{"n": 6}'))) == [Decimal(6)]


def test_copies_voids_and_quarantine() -> None:
    ledger = ledger_of(
        "sum", event("1", '{"n": 1}'), event("1", '{"n": 50}', 3), event("2", '{"n": 2}'), event("3", '{"n": "x"}'),
        event("4", '{"n": 7}', subject="late"),
    )  # fmt: skip
    assert whole(ledger) == [Decimal(3)]
    first = ledger.entries["api", "1"]
    assert (first.copies, first.conflict) == (1, True)
    assert [entry.code for entry in ledger.entries.values()] == [None, None, INVALID_VALUE, UNKNOWN_SUBJECT]
    ledger.void(("api", "2"))
    ledger.add_customer("late", ())
    assert whole(ledger) == [Decimal(8)]
    assert [ledger.status(identity) for identity in ledger.entries] == ["counted", "voided", "quarantined", "counted"]


@pytest.mark.parametrize(("text", "code"), [("1e37", None), ("1e38", INVALID_VALUE), ("0.5e-12", None)])
def test_a_number_has_at_most_38_digits_when_it_is_written_out(text: str, code: str | None) -> None:
    ledger = ledger_of("sum", event("1", f'{{"n": {text}}}'))
    assert ledger.entries["api", "1"].code == code


def test_an_operand_that_is_no_number_is_a_mistake_though_another_is_absent() -> None:
    ledger = ledger_of("sum")
    ledger.set_meter(Meter("m", "llm", "sum", Operation("+", Path(("absent",)), Path(("n",)))))
    for event_id, number in (("1", "1e40"), ("2", '"x"'), ("3", "1")):
        ledger.send(event(event_id, f'{{"n": {number}}}'))
    assert [entry.code for entry in ledger.entries.values()] == [INVALID_VALUE, INVALID_VALUE, None]


def test_a_meter_made_later_takes_what_it_can_read_and_quarantines_nothing() -> None:
    ledger = ledger_of("count", event("1", '{"n": 1}'), event("2", '{"n": "x"}'))
    ledger.set_meter(Meter("m", "llm", "sum", N))
    assert whole(ledger) == [Decimal(1)]
    assert ledger.status(("api", "2")) == "counted"


@pytest.mark.parametrize(
    ("op", "values", "passing"),
    [
        ("eq", (Decimal(1),), {"1", "1.0"}),
        ("ne", (Decimal(1),), {'"1"', '"eu"', "true", "null", ""}),
        ("not_in", ("eu", True), {"1", "1.0", '"1"', "null", ""}),
        ("gte", (Decimal(1),), {"1", "1.0"}),
        ("gt", ("a",), {'"eu"'}),
        ("exists", (), {"1", "1.0", '"1"', '"eu"', "true"}),
        ("exists", (False,), {"null", ""}),
    ],
)
def test_filters(op: str, values: tuple[str | bool | Decimal, ...], passing: set[str]) -> None:
    texts = ["1", "1.0", '"1"', '"eu"', "true", "null", ""]
    rule = Filter(Path(("p",)), op, values)
    assert {text for text in texts if passes(rule, read(f'{{"p": {text}}}' if text else "{}"))} == passing


def test_arithmetic_groups_and_rounding() -> None:
    value = Operation("-", N, Operation("*", Path(("deep", "m")), Path(("k",))))
    meter = Meter("m", "llm", "sum", value, group_by=("g", "h"))
    taken = take(meter, "llm", read('{"n": 1, "deep": {"m": "0.0000005"}, "k": 0.000003, "g": 1.0}'))
    assert taken is not None
    assert (taken.group, taken.value) == (("1", None), Decimal("0.999999999999"))  # 1 - 1.5e-12, away from zero
    assert take(meter, "llm", read('{"n": 1, "k": 2}')) is None


def test_windows_where_clocks_jump() -> None:
    first, again = datetime(2025, 11, 2, 5, 30, tzinfo=UTC), datetime(2025, 11, 2, 6, 30, tzinfo=UTC)
    assert window_of(first, "hour", "America/New_York")[1] == window_of(again, "hour", "America/New_York")[0]
    day = window_of(again, "day", "America/New_York")
    assert day == (datetime(2025, 11, 2, 4, tzinfo=UTC), datetime(2025, 11, 3, 5, tzinfo=UTC))
    assert window_of(again, "week", "UTC")[0] == datetime(2025, 10, 27, tzinfo=UTC)
    assert window_of(again, "month", "Asia/Kathmandu")[0] == datetime(2025, 10, 31, 18, 15, tzinfo=UTC)
