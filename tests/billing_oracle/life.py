"""One subscription's life as a bookkeeper would keep it: instant by instant, what became due is noted, and each
statement takes what is noted. (The product asks a timeline instead; see docs/adr/0013.)"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from tests.billing_oracle.money import ZERO, Body, Commitment
from tests.billing_oracle.periods import Grid
from tests.billing_oracle.statements import Agreed, Biller, Noted

LOOKS_APART = timedelta(days=1)  # at running usage, by a test clock
LATE_APART = (timedelta(days=1), timedelta(days=30))  # at usage after the end: the first look, and at most
LATE_UNTIL = timedelta(days=400)

Prices = Mapping[str, Agreed]


@dataclass(frozen=True)
class Change:
    """What is agreed from `at` on."""

    at: datetime
    prices: Prices
    prorate: bool = True
    invoice_now: bool = False
    commitment: Commitment | None = None


@dataclass
class Running:
    """A price in force. `since`: what is before is noted; `paid_until`: as far as a fee in advance is."""

    agreed: Agreed
    grid: Grid
    since: datetime
    paid_until: datetime | None = None
    last: Noted | None = None  # the charge in advance
    ends_at: datetime | None = None


@dataclass
class Life:
    """`begins_at`: the start, or the end of the trial. `now`: what the clock shows while it stands still."""

    biller: Biller
    zone: str
    begins_at: datetime
    anchor: datetime
    by_calendar: bool
    prices: Prices
    now: datetime
    commitment: Commitment | None = None
    threshold: Decimal | None = None
    end_at: datetime | None = None
    changes: list[Change] = field(default_factory=list[Change])  # to come
    cancel_at: datetime | None = None
    cancel_prorates: bool = False
    has_begun: bool = False
    has_ended: bool = False
    done_until: datetime | None = None
    running: dict[str, Running] = field(default_factory=dict[str, Running])
    planned: dict[str, tuple[datetime, Agreed]] = field(default_factory=dict[str, tuple[datetime, Agreed]])
    noted: list[Noted] = field(default_factory=list[Noted])
    stated_at: datetime | None = None  # the instant of the last statement, be it an empty one
    looks_at: datetime | None = None  # at running usage, for it may have come to the threshold
    closed_at: datetime | None = None
    late_look_at: datetime | None = None  # at usage that comes after the end

    # What people do

    def change(self, change: Change) -> None:
        """At the clock's instant, or to come. It replaces what was to come later."""
        self.changes = [each for each in self.changes if each.at < change.at]
        self.changes.append(change)
        self.advance(self.now)

    def cancel(self, at: datetime, *, prorate: bool) -> None:
        self.cancel_at, self.cancel_prorates = at, prorate
        self.advance(self.now)

    def longest_period_end(self) -> datetime:
        if self.now < self.begins_at:
            return self.begins_at
        grids = [run.grid for run in self.running.values() if not run.agreed.is_once]
        return max((grid.containing(self.now)[1] for grid in grids), default=self.now)

    # How time goes by

    def advance(self, to: datetime) -> None:
        """Do all that is due up to an instant, each at its own; what should have been done before, now."""
        while not self.has_ended:
            at = min(self._instants(), default=None)
            look = None if at is None or self.looks_at is None else max(self.looks_at, self.now)
            if look is not None and look <= to and (at is None or look < at):
                self._look(look)
            elif at is not None and at <= to:
                self._pass(at)
                self.done_until = at
            else:
                break
        while self.late_look_at is not None and self.late_look_at <= to:
            self._look_late(self.late_look_at)
        self.now = to

    def _stop(self) -> datetime | None:
        return min((at for at in (self.end_at, self.cancel_at) if at is not None), default=None)

    def _instants(self) -> Iterator[datetime]:
        if not self.has_begun:
            yield self.begins_at
        yield from (change.at for change in self.changes)
        stop = self._stop()
        if stop is not None:
            yield stop
        if not self.has_begun or self.done_until is None:
            return
        yield from (at for at, _ in self.planned.values())
        yield from (run.ends_at for run in self.running.values() if run.ends_at is not None)
        done_until = self.done_until
        yield from (grid.containing(done_until)[1] for grid in self._grids())
        if self.commitment is not None and self.commitment.period is not None:
            yield self._commitment_grid(self.commitment.period).containing(done_until)[1]

    def _grids(self) -> Iterable[Grid]:
        """Of all that is in force or waits for a statement."""
        bodies = [run.agreed.body for run in self.running.values()] + [noted.agreed.body for noted in self.noted]
        return {self._grid(body) for body in bodies if body.get("billing_period") != "once"}

    def _grid(self, body: Body) -> Grid:
        return Grid(self.anchor, self.zone, body.get("billing_period", "month"), self.by_calendar)

    def _pass(self, at: datetime) -> None:
        stop = self._stop()
        is_closing = stop is not None and at >= stop
        is_due = is_closing or self._is_cut(at) or self._ends_commitment(at)
        if self.has_begun:
            self._end_periods(at)
            self._follow_plans(at)
        due = [change for change in self.changes if change.at <= at]
        self.changes = [change for change in self.changes if change.at > at]
        commitment = self.commitment  # what changes now is for the next statement, unless this one is made already
        for change in () if is_closing else due:
            self.prices, self.commitment = change.prices, change.commitment
            if self.stated_at == at:
                commitment = change.commitment
            if self.has_begun:
                self._apply(change, at)
                is_due |= change.invoice_now
        if is_closing:
            self._close(at)
        else:
            if not self.has_begun and at >= self.begins_at:
                self.has_begun = is_due = True
                for key, agreed in self.prices.items():
                    self._start(key, agreed, at)
            is_due |= self._is_cut(at)
            self._charge_ahead(at)
        if is_due:
            self._state(at, commitment, is_closing=is_closing)

    def _state(self, at: datetime, commitment: Commitment | None, *, is_closing: bool) -> None:
        noted, self.noted = self.noted, []
        since = None
        if commitment is not None and commitment.period is not None and self.stated_at not in (None, at):
            whole = self._commitment_grid(commitment.period).ending(at)
            since = max(whole[0], self.begins_at) if is_closing or whole[1] == at else None
        self.biller.state(
            at, max(at, self.now), noted, is_closing=is_closing, commitment=commitment, committed_since=since
        )
        self.stated_at = at
        if self.threshold is not None and self.looks_at is None:
            self.looks_at = at

    def _look(self, at: datetime) -> None:
        self.looks_at = at + LOOKS_APART
        if self.threshold is None or self.stated_at == at:
            return
        running = [
            Noted(key, run.agreed, (run.since, at), run.grid.ending(at))
            for key, run in self.running.items()
            if run.agreed.is_usage and run.since < at
        ]
        noted = [each for each in self.noted if each.agreed.is_usage]
        if noted or running:
            self.biller.look(at, [*noted, *running], self.threshold)

    def _look_late(self, at: datetime) -> None:
        """Each look is as long after the one before as that was after the end, within bounds; the last ends it."""
        assert self.closed_at is not None
        now = max(at, self.now)
        self.biller.adjust(at, now)
        first, most = LATE_APART
        end = self.closed_at + LATE_UNTIL
        following = min(now + min(max(now - self.closed_at, first), most), end)
        self.late_look_at = following if now < end else None

    def _commitment_grid(self, period: str) -> Grid:
        return Grid(self.anchor, self.zone, period, self.by_calendar)

    def _ends_commitment(self, at: datetime) -> bool:
        """Whether a commitment's own period ends here that no statement was made for."""
        if self.commitment is None or self.commitment.period is None or self.stated_at in (None, at):
            return False
        return self._commitment_grid(self.commitment.period).ending(at)[1] == at

    def _is_cut(self, at: datetime) -> bool:
        """Whether a period begins here that no statement was made for. What changes after it waits for the next."""
        return self.stated_at != at and any(grid.containing(at)[0] == at for grid in self._grids())

    def _end_periods(self, at: datetime) -> None:
        """Note what is billed afterwards of the periods that end here."""
        for key, run in self.running.items():
            if not run.agreed.is_advance and not run.agreed.is_once and run.grid.ending(at)[1] == at:
                self._note_until(key, run, at)

    def _note_until(self, key: str, run: Running, at: datetime) -> None:
        if run.since < at:
            self.noted.append(Noted(key, run.agreed, (run.since, at), run.grid.ending(at)))
            run.since = at

    def _follow_plans(self, at: datetime) -> None:
        """Fees that were left to run on until now, and those that take their place."""
        for key in [key for key, run in self.running.items() if run.ends_at is not None and run.ends_at <= at]:
            del self.running[key]
        for key in [key for key, (start, _) in self.planned.items() if start <= at]:
            self._start(key, self.planned.pop(key)[1], at)

    def _charge_ahead(self, at: datetime) -> None:
        for key, run in self.running.items():
            if run.agreed.is_advance and not run.agreed.is_once and run.paid_until == at:
                whole = run.grid.containing(at)
                end = whole[1] if self.end_at is None else min(whole[1], self.end_at)
                if at < end:
                    run.last = Noted(key, run.agreed, (at, end), whole)
                    self.noted.append(run.last)
                    run.paid_until = end

    def _start(self, key: str, agreed: Agreed, at: datetime, *, quantity: Decimal | None = None) -> None:
        run = Running(agreed, self._grid(agreed.body) if not agreed.is_once else Grid(at, "UTC", "day"), at)
        self.running[key] = run
        if agreed.is_once:
            added = agreed.quantity if quantity is None else quantity
            if added:
                self.noted.append(Noted(key, Agreed(agreed.body, added), (at, at), (at, at)))
        elif agreed.is_advance:
            run.paid_until = at

    # Changes

    def _apply(self, change: Change, at: datetime) -> None:
        is_pause = not change.prices
        for key in [*self.running, *(key for key in self.planned if key not in self.running)]:
            if key not in change.prices and not (is_pause and key in self.running and self.running[key].agreed.is_once):
                self._leave(key, at, prorate=change.prorate)
        for key, agreed in change.prices.items():
            self._take(key, agreed, at, prorate=change.prorate)

    def _leave(self, key: str, at: datetime, *, prorate: bool) -> None:
        self.planned.pop(key, None)
        run = self.running.get(key)
        if run is not None:
            self._end(key, run, at, prorate=prorate)

    def _take(self, key: str, agreed: Agreed, at: datetime, *, prorate: bool) -> None:
        run = self.running.get(key)
        if run is None:
            planned = self.planned.pop(key, None)
            if planned is not None and planned[1] == agreed:
                self.planned[key] = planned
                return
            start = at if prorate or agreed.is_usage or agreed.is_once else self._grid(agreed.body).ending(at)[1]
            self._begin(key, agreed, start, at)
            return
        if run.agreed == agreed:
            self.planned.pop(key, None)
            run.ends_at = None
            return
        if key in self.planned and self.planned[key][1] == agreed:
            return
        self.planned.pop(key, None)
        if agreed.is_once:
            assert agreed.quantity is not None
            held = run.agreed.quantity or ZERO
            self._start(key, agreed, at, quantity=max(agreed.quantity - held, ZERO))
            return
        self._begin(key, agreed, self._end(key, run, at, prorate=prorate), at)

    def _begin(self, key: str, agreed: Agreed, start: datetime, at: datetime) -> None:
        if start <= at:
            self._start(key, agreed, at)
        else:
            self.planned[key] = (start, agreed)

    def _end(self, key: str, run: Running, at: datetime, *, prorate: bool) -> datetime:
        """Take a price out of force; from when on another may take its place."""
        if run.agreed.is_usage or run.agreed.is_once or prorate:
            self._cut(key, run, at)
            del self.running[key]
            return at
        ends_at = run.paid_until if run.agreed.is_advance else run.grid.ending(at)[1]
        assert ends_at is not None
        if ends_at <= at:
            del self.running[key]
            return at
        run.ends_at = ends_at
        return ends_at

    def _cut(self, key: str, run: Running, at: datetime) -> None:
        if run.agreed.is_once:
            return
        if not run.agreed.is_advance:
            self._note_until(key, run, at)
            return
        assert run.paid_until is not None
        if run.paid_until <= at or run.last is None:
            return
        if run.last in self.noted:  # not on a statement yet: the shorter time is charged alone
            self.noted.remove(run.last)
            if run.last.span[0] < at:
                self.noted.append(Noted(key, run.agreed, (run.last.span[0], at), run.last.whole))
        else:
            self.noted.append(Noted(key, run.agreed, (at, run.paid_until), run.last.whole, is_credit=True))

    def _close(self, at: datetime) -> None:
        for key, run in list(self.running.items()):
            if not run.agreed.is_advance or (self.cancel_prorates and at == self.cancel_at):
                self._cut(key, run, at)
        self.has_ended = True
        self.closed_at, self.late_look_at = at, at + LATE_APART[0]
