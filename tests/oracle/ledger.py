"""What was sent, in order, and what must have become of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tests.oracle.rules import Meter, NotANumber, Taken, matches, read, take

UNKNOWN_SUBJECT = "event.unknown_subject"
INVALID_VALUE = "event.invalid_value"

Identity = tuple[str, str]  # source, id


@dataclass(frozen=True)
class Event:
    """One event as it is sent. `data` is JSON text."""

    id: str
    type: str
    subject: str
    time: datetime
    data: str
    source: str = "api"

    @property
    def identity(self) -> Identity:
        return self.source, self.id


@dataclass
class Entry:
    """The first copy of an identity and its fate. `position` is its place in the order of sending."""

    event: Event
    data: dict[str, Any]
    position: int
    customer: str | None = None
    code: str | None = None
    voided: bool = False
    was_counted: bool = False  # a meter matched it at the last judgement
    copies: int = 0
    conflict: bool = False
    taken: dict[Meter, Taken | None] = field(default_factory=dict[Meter, Taken | None])  # once it is known

    @property
    def counts(self) -> bool:
        return not self.voided and self.code is None


@dataclass
class Ledger:
    """Everything of one tenant. Calls come in the order in which the log has them; each takes effect at once.

    A change of customers or meters is one that all earlier events have been judged before.
    """

    subjects: dict[str, str] = field(default_factory=dict[str, str])  # subject to customer
    meters: dict[str, Meter] = field(default_factory=dict[str, Meter])
    entries: dict[Identity, Entry] = field(default_factory=dict[Identity, Entry])

    def add_customer(self, external_id: str, subjects: tuple[str, ...]) -> None:
        """Events that were quarantined for its subjects are judged anew."""
        names = {external_id, *subjects}
        self.subjects |= dict.fromkeys(names, external_id)
        for entry in self.entries.values():
            if entry.code == UNKNOWN_SUBJECT and entry.event.subject in names:
                self._judge(entry)

    def set_meter(self, meter: Meter) -> None:
        """Make a meter, or change it. What counted goes on to count, as far as the meter can read it."""
        self.meters[meter.key] = meter

    def send(self, event: Event) -> None:
        entry = self.entries.get(event.identity)
        if entry is None:
            entry = Entry(event, read(event.data), len(self.entries))
            self.entries[event.identity] = entry
            self._judge(entry)
        else:
            entry.copies += 1
            entry.conflict |= not _same(event, entry.event)

    def void(self, identity: Identity) -> None:
        self.entries[identity].voided = True

    def replay(self, code: str | None) -> None:
        """Judge quarantined events anew."""
        for entry in self.entries.values():
            if entry.code is not None and code in (None, entry.code):
                self._judge(entry)

    def _judge(self, entry: Entry) -> None:
        if entry.voided:
            return
        entry.customer = self.subjects.get(entry.event.subject)
        entry.code = None
        if entry.customer is None:
            entry.code = UNKNOWN_SUBJECT
            return
        try:
            for meter in self.meters.values():
                take(meter, entry.event.type, entry.data)
        except NotANumber:
            entry.code = INVALID_VALUE
            return
        entry.was_counted = any(matches(meter, entry.event.type, entry.data) for meter in self.meters.values())

    def status(self, identity: Identity) -> str:
        """As the API says it: counted, unmatched, quarantined or voided.

        What a meter matched is counted, also when its value was absent and the meter took nothing.
        """
        entry = self.entries[identity]
        if entry.voided:
            return "voided"
        if entry.code is not None:
            return "quarantined"
        taken = any(_taken(meter, entry) is not None for meter in self.meters.values())
        return "counted" if entry.was_counted or taken else "unmatched"

    def taken(self, meter: Meter) -> Iterator[tuple[Entry, Taken]]:
        """What the meter took from all that counts, in the order of sending."""
        for entry in self.entries.values():
            found = _taken(meter, entry)
            if found is not None:
                yield entry, found


def _same(copy: Event, first: Event) -> bool:
    """Whether a copy says what the first one said: by values, not by their text."""
    return replace(copy, data=first.data) == first and _plain(read(copy.data)) == _plain(read(first.data))


def _plain(value: Any) -> Any:
    """Equal to another's only if both are the same JSON value: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else (isinstance(value, bool), value)


def _taken(meter: Meter, entry: Entry) -> Taken | None:
    if not entry.counts:
        return None
    if meter not in entry.taken:
        try:
            entry.taken[meter] = take(meter, entry.event.type, entry.data)
        except NotANumber:  # the meter was made after the event, which it can't read and others have counted
            entry.taken[meter] = None
    return entry.taken[meter]
