"""Which periods are counted, as time goes by and entitlements change."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows import counters
from flows.additions import additions
from flows.attribute import attribute
from flows.catalogue import Catalogue
from flows.combine import combine
from flows.counters import Counted, CounterBook
from flows.fields import SCALE
from infra.postgres.catalogue import Change
from schemas.catalogue import ClockEntry, EntitlementEntry, EntryKind, MeterEntry, SubjectEntry, meter_key
from schemas.instants import from_micros, to_micros
from schemas.meters import Aggregation
from tests.flows.columns import catalogue_of, columns
from tests.support.usage_log import Sent, meter

START = datetime(2026, 1, 10, 8, 30, 15, tzinfo=UTC)


def entitle(catalogue: Catalogue, no: int, **fields: Any) -> None:
    """An entitlement of customer 101 to meter 1, monthly from START, unless said otherwise. None takes it away."""
    given = {
        "customer_no": 101,
        "meter_no": 1,
        "reset": "billing_period",
        "timezone": "UTC",
        "alignment": "anniversary",
        "billing_anchor": START,
        "billing_period": "month",
        "billing_period_count": 1,
        "starts_at": START,
        "ends_at": None,
    }
    entry = None if fields.get("gone") else EntitlementEntry(entitlement_no=no, **(given | fields))
    catalogue.advance([Change(kind=EntryKind.ENTITLEMENT, tenant_no=1, key=str(no), entry=entry)], 1)


def starts(periods: Sequence[Counted]) -> list[str]:
    return [from_micros(period.start).strftime("%m-%d %H:%M:%S") for period in periods]


def refreshed(book: CounterBook, catalogue: Catalogue, now: datetime) -> list[Counted]:
    """Periods that are counted from now on."""
    book.refresh(catalogue, now)
    return book.take_fresh()


def test_the_period_of_now_the_one_before_and_the_next_are_counted_and_move_on_with_time() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    fresh = refreshed(book, catalogue, START)
    assert starts(fresh) == ["01-10 08:30:15", "02-10 08:30:15"]
    assert book.missing() == fresh
    book.mark_seeded(fresh)
    assert starts(book.counted(1)) == ["01-10 08:30:15", "02-10 08:30:15"]
    assert refreshed(book, catalogue, START + timedelta(days=20)) == []
    assert starts(refreshed(book, catalogue, START + timedelta(days=31))) == ["03-10 08:30:15"]
    assert starts(book.missing()) == ["03-10 08:30:15"]
    book.mark_seeded(book.missing())
    assert starts(book.counted(1))[0] == "01-10 08:30:15", "the period before the present one stays"
    assert added(book, catalogue, [START]) == {START: 1}, "and late events go there"
    assert refreshed(book, catalogue, START + timedelta(days=40)) == []
    assert starts(refreshed(book, catalogue, START + timedelta(days=60))) == ["04-10 08:30:15"]
    book.mark_seeded(book.missing())
    assert starts(book.counted(1))[0] == "02-10 08:30:15"
    assert starts(refreshed(book, catalogue, START + timedelta(days=130))) == ["05-10 08:30:15", "06-10 08:30:15"]
    assert starts(book.counted(1))[0] == "04-10 08:30:15"


def test_an_entitlement_that_ends_counts_to_its_end_and_one_that_is_gone_no_more() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    book.mark_seeded(refreshed(book, catalogue, START))
    ends_at = START + timedelta(days=3)
    entitle(catalogue, 1, ends_at=ends_at)
    assert refreshed(book, catalogue, START) == [], "the row of the period is there already"
    assert added(book, catalogue, [ends_at - timedelta(microseconds=1), ends_at]) == {START: 1}
    assert refreshed(book, catalogue, ends_at + timedelta(days=29)) == []
    assert added(book, catalogue, [START]) == {START: 1}, "a late event, of which something may be carried over"
    assert book.take_left() == [(1, START.replace(month=2))]
    assert refreshed(book, catalogue, ends_at + timedelta(days=30)) == []
    assert book.counted(1) == ()
    assert book.take_left() == [(1, START)]
    entitle(catalogue, 1)
    assert len(refreshed(book, catalogue, START)) == 2, "it goes on, and is seeded anew"
    entitle(catalogue, 1, gone=True)
    assert refreshed(book, catalogue, START) == []
    assert added(book, catalogue, [START]) == {}
    assert book.counted(1) == ()


def test_a_clock_that_is_set_back_brings_back_the_periods_of_that_time() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1, reset="day")
    noon, ahead = START.replace(month=3, hour=12), START.replace(month=6)
    before = refreshed(book, catalogue, noon)
    book.mark_seeded(before)
    refreshed(book, catalogue, ahead)
    book.mark_seeded(book.missing())
    assert book.take_left() == [(1, from_micros(period.start)) for period in before]
    assert refreshed(book, catalogue, noon) == before == book.missing(), "their rows have not been added to meanwhile"
    assert len(book.take_left()) == 3
    assert refreshed(book, catalogue, noon) == []
    assert refreshed(book, catalogue, ahead) != []


def test_a_clock_that_is_set_back_a_little_changes_nothing() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1, reset="hour")
    hour = START.replace(minute=0, second=0) + timedelta(days=1)
    book.mark_seeded(refreshed(book, catalogue, hour))
    for minutes in (20, 40, 59):
        assert refreshed(book, catalogue, hour - timedelta(minutes=minutes)) == []
    assert starts(book.counted(1)) == ["01-11 07:00:00", "01-11 08:00:00", "01-11 09:00:00"], "the hour before, too"
    assert starts(refreshed(book, catalogue, hour - timedelta(hours=1))) == ["01-11 06:00:00"]


def test_counters_follow_the_revision_that_readers_use() -> None:
    building = meter(1, active=False)
    catalogue, book = catalogue_of([building], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    assert refreshed(book, catalogue, START) == [], "nothing is counted while the first revision is built"
    use(catalogue, meter(1))
    assert [period.revision for period in refreshed(book, catalogue, START)] == [1, 1]
    book.mark_seeded(book.missing())
    assert added(book, catalogue, [START]) == {START: 1}
    use(catalogue, meter(1, revision=2), gone=meter(1))
    assert [period.revision for period in refreshed(book, catalogue, START)] == [2, 2], "seeded anew"
    assert [period.revision for period in book.counted(1)] == [2, 2]
    use(catalogue, meter(1, revision=3, aggregation=Aggregation.WEIGHTED_SUM), gone=meter(1, revision=2))
    assert refreshed(book, catalogue, START) == [], "a counter can't hold a time average"
    assert book.missing() == []


def test_a_mass_of_turns_is_spread_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "TURNS_AT_ONCE", 2)
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    for number in range(5):
        entitle(catalogue, number)
    book.mark_seeded(refreshed(book, catalogue, START))
    later = START + timedelta(days=31)
    assert [len(refreshed(book, catalogue, later)) for _ in range(4)] == [2, 2, 1, 0]
    assert len(book.missing(3)) == 3
    assert added(book, catalogue, [later]) == {later: 5}, "the next period was counted before its turn"


def test_a_customer_of_a_test_clock_is_counted_by_what_the_clock_shows() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    put_clock(catalogue, 7, START)
    by_clock = SubjectEntry(customer_no=102, clock_no=7)
    catalogue.advance([Change(kind=EntryKind.SUBJECT, tenant_no=1, key="globex", entry=by_clock)], 2)
    entitle(catalogue, 1)
    entitle(catalogue, 2, customer_no=102)
    real = START + timedelta(days=100)
    assert starts(refreshed(book, catalogue, real)) == [
        "03-10 08:30:15", "04-10 08:30:15", "05-10 08:30:15",
        "01-10 08:30:15", "02-10 08:30:15",
    ]  # fmt: skip
    book.mark_seeded(book.missing())
    assert refreshed(book, catalogue, real + timedelta(days=1)) == []
    put_clock(catalogue, 7, START + timedelta(days=31))
    assert starts(refreshed(book, catalogue, real)) == ["03-10 08:30:15"]
    book.mark_seeded(book.missing())
    put_clock(catalogue, 7, START + timedelta(days=60))
    book.refresh(catalogue, real)
    assert [starts(book.counted(number))[0] for number in (1, 2)] == ["03-10 08:30:15", "02-10 08:30:15"]


def put_clock(catalogue: Catalogue, clock_no: int, now: datetime) -> None:
    """Have a test clock show this."""
    change = Change(kind=EntryKind.CLOCK, tenant_no=1, key=str(clock_no), entry=ClockEntry(now=now))
    catalogue.advance([change], catalogue.version + 1)


def use(catalogue: Catalogue, entry: MeterEntry, *, gone: MeterEntry | None = None) -> None:
    """Have readers use this revision."""
    changes = [Change(kind=EntryKind.METER, tenant_no=1, key=meter_key(entry), entry=entry)]
    if gone is not None:
        changes.append(Change(kind=EntryKind.METER, tenant_no=1, key=meter_key(gone), entry=None))
    catalogue.advance(changes, catalogue.version + 1)


def test_two_entitlements_on_one_meter_count_each_for_itself() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    entitle(catalogue, 2, reset="never", starts_at=START - timedelta(days=1))
    book.refresh(catalogue, START)
    found = added(book, catalogue, [START - timedelta(seconds=1), START, START + timedelta(minutes=5)])
    assert found == {START: 2, START - timedelta(days=1): 3}


def added(book: CounterBook, catalogue: Catalogue, times: list[datetime]) -> dict[datetime, int]:
    """What events of value 1 at these times add, by the start of the period."""
    events = [Sent(id=str(index), time=time, data={"tokens": 1}) for index, time in enumerate(times)]
    judged = attribute(columns(events), catalogue)
    found = {period: amount.units for period, amount in additions(book, judged, combine(judged)).items()}
    assert all(units % SCALE == 0 for units in found.values())
    assert all(to_micros(START - timedelta(days=1)) <= period.start for period in found)
    by_start: dict[datetime, int] = {}
    for period, units in found.items():
        start = from_micros(period.start)
        by_start[start] = by_start.get(start, 0) + units // SCALE
    return by_start


def test_what_is_stale_takes_nothing_and_is_missing_once_it_is_renewed() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1, reset="never")
    [period] = refreshed(book, catalogue, START)
    book.mark_seeded([period])
    book.mark_stale([period])
    assert book.is_missing(period)
    assert book.missing() == []
    book.renew_stale()
    assert book.missing() == [period]
    book.mark_seeded([period])
    assert not book.is_missing(period)
    book.mark_stale([period])
    entitle(catalogue, 1, reset="never", ends_at=START + timedelta(days=1))
    assert len(refreshed(book, catalogue, START)) == 1, "a row that is stale is no row of the shortened period"
