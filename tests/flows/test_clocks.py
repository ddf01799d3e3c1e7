"""Times of events are judged by the test clock of each event's customer."""

from datetime import UTC, datetime, timedelta

import numpy as np

from flows.attribute import attribute
from flows.attributed import Status
from flows.catalogue import Catalogue
from flows.clocks import TIME_IN_FUTURE
from infra.postgres.catalogue import Change
from schemas.catalogue import ClockEntry, EntryKind, SubjectEntry
from schemas.instants import to_micros
from tests.flows.columns import APPENDED_AT_MS, columns
from tests.support.usage_log import Sent

SHOWN = datetime(2031, 1, 1, tzinfo=UTC)
RECEIVED = datetime.fromtimestamp(APPENDED_AT_MS / 1000, UTC)


def a_catalogue(shown: datetime | None = SHOWN) -> Catalogue:
    """Customer 1 (`sim`) lives by clock 7, customer 2 (`real`) by none; both of tenant 1."""
    catalogue = Catalogue()
    subjects = {"sim": SubjectEntry(customer_no=1, clock_no=7), "real": SubjectEntry(customer_no=2)}
    changes = [Change(kind=EntryKind.SUBJECT, tenant_no=1, key=key, entry=entry) for key, entry in subjects.items()]
    if shown is not None:
        changes.append(Change(kind=EntryKind.CLOCK, tenant_no=1, key="7", entry=ClockEntry(now=shown)))
    catalogue.advance(changes, 1)
    return catalogue


def ahead(catalogue: Catalogue, *events: Sent) -> list[bool]:
    judged = attribute(columns(events), catalogue)
    assert [judged.codes.get(row) == TIME_IN_FUTURE for row in range(len(events))] == (
        judged.status == Status.QUARANTINED
    ).tolist()
    return (judged.status == Status.QUARANTINED).tolist()


def test_an_event_may_be_at_its_clocks_now_and_no_later() -> None:
    late = Sent(id="a", subject="sim", time=SHOWN)
    later = late.at(SHOWN + timedelta(microseconds=1))
    assert ahead(a_catalogue(), late, later) == [False, True]


def test_a_customer_without_a_clock_keeps_to_five_minutes_after_receipt() -> None:
    within = Sent(id="a", subject="real", time=RECEIVED + timedelta(minutes=5))
    beyond = within.at(RECEIVED + timedelta(minutes=5, microseconds=1))
    assert ahead(a_catalogue(), within, beyond) == [False, True]


def test_a_tenant_without_clocks_has_had_its_times_judged_already() -> None:
    assert ahead(a_catalogue(None), Sent(id="a", subject="real", time=SHOWN)) == [False]


def test_an_event_without_a_time_takes_what_the_clock_showed_when_it_was_received() -> None:
    """A clock may be moved on before a flow has read what was sent to it."""
    for moved_at, shown in (
        (RECEIVED + timedelta(milliseconds=1), SHOWN),
        (RECEIVED, SHOWN + timedelta(days=40)),
    ):
        catalogue = a_catalogue()
        entry = ClockEntry(now=SHOWN + timedelta(days=40), moved_at=moved_at, former=SHOWN)
        catalogue.advance([Change(kind=EntryKind.CLOCK, tenant_no=1, key="7", entry=entry)], 2)
        events = columns([Sent(id="a", subject="sim", time=RECEIVED), Sent(id="b", subject="real", time=RECEIVED)])
        events.untimed[:] = True
        judged = attribute(events, catalogue)
        assert judged.events.occurred_at.tolist() == [to_micros(shown), to_micros(RECEIVED)]


def test_an_event_without_a_time_takes_what_the_clock_shows() -> None:
    events = columns([Sent(id="a", subject="sim", time=RECEIVED), Sent(id="b", subject="real", time=RECEIVED)])
    events.untimed[:] = True
    judged = attribute(events, a_catalogue())
    assert judged.events.occurred_at.tolist() == [to_micros(SHOWN), to_micros(RECEIVED)]
    assert events.occurred_at.tolist() == [to_micros(RECEIVED)] * 2, "the batch itself stays as it came"
    assert not np.any(judged.status == Status.QUARANTINED)
