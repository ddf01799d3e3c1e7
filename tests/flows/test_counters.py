"""Which periods are counted, as time goes by and entitlements change."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flows.attribute import attribute
from flows.catalogue import Catalogue
from flows.combine import combine
from flows.counters import Counted, CounterBook
from flows.fields import SCALE
from infra.postgres.catalogue import Change
from schemas.catalogue import EntitlementEntry, EntryKind
from schemas.instants import from_micros, to_micros
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


def starts(periods: list[Counted]) -> list[str]:
    return [from_micros(period.start).strftime("%m-%d %H:%M:%S") for period in periods]


def test_the_period_of_now_and_the_next_are_counted_and_move_on_with_time() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    fresh = book.refresh(catalogue, START)
    assert starts(fresh) == ["01-10 08:30:15", "02-10 08:30:15"]
    assert book.missing() == fresh
    book.mark_seeded(fresh)
    assert book.refresh(catalogue, START + timedelta(days=20)) == []
    assert starts(book.refresh(catalogue, START + timedelta(days=31))) == ["03-10 08:30:15"]
    assert starts(book.missing()) == ["03-10 08:30:15"]
    assert starts(book.refresh(catalogue, START + timedelta(days=100))) == ["04-10 08:30:15", "05-10 08:30:15"]


def test_an_entitlement_that_ends_counts_to_its_end_and_one_that_is_gone_no_more() -> None:
    catalogue, book = catalogue_of([meter(1)], {"acme": 1}), CounterBook()
    entitle(catalogue, 1)
    book.mark_seeded(book.refresh(catalogue, START))
    ends_at = START + timedelta(days=3)
    entitle(catalogue, 1, ends_at=ends_at)
    assert book.refresh(catalogue, START) == [], "the row of the period is there already"
    assert added(book, catalogue, [ends_at - timedelta(microseconds=1), ends_at]) == {START: 1}
    entitle(catalogue, 1, gone=True)
    assert book.refresh(catalogue, START) == []
    assert added(book, catalogue, [START]) == {}


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
    found = book.additions(judged, combine(judged))
    assert all(units % SCALE == 0 for units in found.values())
    assert all(to_micros(START - timedelta(days=1)) <= period.start for period in found)
    return {from_micros(period.start): units // SCALE for period, units in found.items()}
