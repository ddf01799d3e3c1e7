"""The lines that a run of a price has on the statement at an instant. Nothing is priced here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from pricing.charges import PlanPrice
from pricing.runs import MOMENT, Run
from pricing.terms import Terms, body_of
from schemas.instants import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One line to be priced. `period` is what it is for, `whole` the period of its grid that this is a part of.

    `quantity` is None for usage: it is what the meter counted in `period`. A credit gives back an advance fee. `name`
    tells the usage lines of a statement apart; most are called as their price.
    """

    price: PlanPrice
    body: Mapping[str, object]
    period: Period
    whole: Period
    quantity: Decimal | None
    is_credit: bool = False
    name: str

    @property
    def is_usage(self) -> bool:
        return self.quantity is None

    @property
    def is_part(self) -> bool:
        """Whether the line's price is shared out by time: for less than a whole period, or given back."""
        return self.is_credit or (self.price.prorate and self.period != self.whole)


def run_lines(terms: Terms, run: Run, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    """The lines of a run on the statement at `at`, the first one after `terms.billed_until`."""
    if closing and terms.stop_at is not None and run.start >= terms.stop_at:
        return
    if run.grid is None:
        yield from _once(terms, run, at, closing=closing)
    elif run.is_arrears:
        yield from _arrears(terms, run, at, closing=closing)
    else:
        yield from _opening(terms, run, at, closing=closing)
        if not closing:
            yield from _advance(terms, run, at)
        yield from _cut_credit(terms, run, at, closing=closing)
        if closing:
            yield from _stop_credit(terms, run, at)


def _is_due(terms: Terms, due: datetime | None, at: datetime, *, closing: bool) -> bool:
    """Whether what is due then stands on this statement; a closing one takes what is late as well."""
    since = terms.billed_until
    until = at + MOMENT if closing else at
    return due is not None and due <= until and (since is None or since < due)


def _once(terms: Terms, run: Run, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    if run.added is not None and not run.added:
        return
    if not run.is_arrears:
        if _is_due(terms, run.starts_due, at, closing=closing):
            yield _line(run, Period(start=run.start, end=run.start), Period(start=run.start, end=run.start))
    elif run.end is not None and run.end <= at:
        if _is_due(terms, run.ends_due, at, closing=closing):
            yield _line(run, Period(start=run.start, end=run.end), Period(start=run.start, end=run.end))
    elif closing and run.start < at and terms.billed_until is not None and terms.billed_until < at:
        yield _line(run, Period(start=run.start, end=at), Period(start=run.start, end=at))


def _arrears(terms: Terms, run: Run, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    """The line of the period that ends at `at`, or that a change or the closing statement cuts off."""
    assert run.grid is not None
    if terms.billed_until is None:
        return
    end = at
    if run.end is not None and run.end <= at:
        end = run.end
        whole = run.grid.ending(end)
        if not _is_due(terms, end if whole.end == end else run.ends_due, at, closing=closing):
            return
    else:
        whole = run.grid.ending(at)
        if closing:
            assert terms.stop_at is not None
            end = min(at, terms.stop_at)
            if terms.billed_until == at == whole.end:
                return  # that period is billed
        elif whole.end != at:
            return
    start = max(whole.start, run.start)
    if start < end:
        yield _line(run, Period(start=start, end=end), whole)


def _opening(terms: Terms, run: Run, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    """The line of the period that the run begins in; up to its end when that is known by now."""
    assert run.grid is not None
    if not _is_due(terms, run.starts_due, at, closing=closing):
        return
    whole = run.grid.containing(run.start)
    end = _paid_end(terms, whole)
    if run.end is not None and _is_due(terms, run.ends_due, at, closing=closing):
        end = min(end, run.end)
    elif closing and terms.cancel_proration and run.price.prorate:
        end = min(end, at)
    if run.start < end:
        yield _line(run, Period(start=run.start, end=end), whole)


def _advance(terms: Terms, run: Run, at: datetime) -> Iterator[StatementLine]:
    """The line of the period that begins at `at`."""
    assert run.grid is not None
    whole = run.grid.containing(at)
    if whole.start != at or run.start >= at or terms.billed_until is None:
        return
    is_late_end = run.end == at and run.ends_due is not None and run.ends_due > at
    if run.end is None or run.end > at or is_late_end:
        yield _line(run, Period(start=at, end=_paid_end(terms, whole)), whole)


def _cut_credit(terms: Terms, run: Run, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    """What is left, at a change, of the period that was charged."""
    assert run.grid is not None
    since = terms.billed_until
    if since is None or run.end is None or run.starts_due > since:
        return
    if not _is_due(terms, run.ends_due, at, closing=closing):
        return
    whole = run.grid.containing(run.end)
    if whole.start == run.end and run.ends_due == run.end:
        return  # it ended with its period: nothing of this one was charged
    yield from _unused(terms, run, whole, run.end)


def _stop_credit(terms: Terms, run: Run, at: datetime) -> Iterator[StatementLine]:
    """What is left, at a cancellation, of the period that was charged."""
    assert run.grid is not None
    since = terms.billed_until
    if not terms.cancel_proration or not run.price.prorate or since is None or run.starts_due > since:
        return
    whole = run.grid.containing(at)
    if run.is_open_at(at) and since >= whole.start:
        yield from _unused(terms, run, whole, at)


def _unused(terms: Terms, run: Run, whole: Period, start: datetime) -> Iterator[StatementLine]:
    end = _paid_end(terms, whole)
    if start < end:
        yield _line(run, Period(start=start, end=end), whole, is_credit=True)


def _paid_end(terms: Terms, whole: Period) -> datetime:
    """Up to when an advance fee is charged for a period: its end, or the agreed one of the subscription."""
    return whole.end if terms.end_at is None else min(whole.end, terms.end_at)


def _line(run: Run, period: Period, whole: Period, *, is_credit: bool = False) -> StatementLine:
    """The line of a period, by the price that was in effect when what was charged of it began."""
    began = max(whole.start, run.start) if is_credit else period.start
    price = run.price.in_effect(began)
    return StatementLine(
        price=price,
        body=body_of(price, run.agreed.body),
        period=period,
        whole=whole,
        quantity=run.added if run.grid is None else run.agreed.quantity,
        is_credit=is_credit,
        name=price.key,
    )
