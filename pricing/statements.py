"""Statements: which invoice of a subscription comes next, when, and with which lines. Nothing is priced here.

A subscription's life is cut at instants: its start, every end of a period of one of its prices, and its stop. Each
instant makes one statement due. It has the advance fees of the periods that begin there, and the arrears fees and the
usage of the periods that end there. So the first statement has advance lines alone, usage of period n stands beside
the advance lines of period n + 1, and the closing one has no advance lines. The periods of the statements tile the
subscription's life: no gap, no overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from pricing.charges import PlanPrice, Timing
from pricing.periods import BillingPeriod
from pricing.terms import Terms, is_usage
from schemas.billing import InvoiceKind
from schemas.instants import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One line to be priced. `period` is what it is for, `whole` the period of its grid that this is a part of.

    `quantity` is None for usage: it is what the meter counted in `period`. A credit gives back an advance fee.
    """

    price: PlanPrice
    period: Period
    whole: Period
    quantity: Decimal | None
    is_credit: bool = False

    @property
    def is_usage(self) -> bool:
        return self.quantity is None

    @property
    def is_part(self) -> bool:
        """Whether the line's price is shared out by time: for less than a whole period, or given back."""
        return self.is_credit or (self.price.prorate and self.period != self.whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is due at `at`. `period` reaches from the statement before to `at`; the first one's is empty."""

    at: datetime
    kind: InvoiceKind
    period: Period
    lines: tuple[StatementLine, ...]

    @property
    def has_usage(self) -> bool:
        return any(line.is_usage for line in self.lines)

    @property
    def is_closing(self) -> bool:
        return self.kind is InvoiceKind.CLOSING


@dataclass(frozen=True, slots=True, kw_only=True)
class NextBill:
    """What a subscription's row says of its next statement. `at` None: there is none."""

    at: datetime | None
    usage_due: bool


def next_instant(terms: Terms) -> datetime | None:
    """When the next statement is due; None when nothing recurs and nothing ends.

    A stop that lies before what is billed already comes due at once, with nothing but credits.
    """
    billed_until, stop_at = terms.billed_until, terms.stop_at
    if billed_until is None:
        return terms.start_at if stop_at is None else min(terms.start_at, stop_at)
    instants = [grid.containing(billed_until).end for grid in set(terms.grids.values())]
    if stop_at is not None:
        instants.append(max(stop_at, billed_until))
    return min(instants, default=None)


def next_statement(terms: Terms) -> Statement | None:
    """The statement after `billed_until`; None when there is none. One without lines makes no invoice."""
    at = next_instant(terms)
    if at is None:
        return None
    since = terms.billed_until
    closing = terms.stop_at is not None and at >= terms.stop_at
    lines: list[StatementLine] = []
    for price in terms.prices:
        if since is not None and since < at:
            lines.extend(_arrears(terms, price, at, closing=closing))
        lines.extend(_credit(terms, price, at) if closing else _advance(terms, price, at))
    return Statement(
        at=at,
        kind=InvoiceKind.CLOSING if closing else InvoiceKind.SUBSCRIPTION,
        period=Period(start=at if since is None else since, end=at),
        lines=tuple(lines),
    )


def after(terms: Terms, statement: Statement) -> Terms:
    """The terms once the statement is billed."""
    return replace(terms, billed_until=statement.at)


def next_bill(terms: Terms, statement: Statement) -> NextBill:
    """What comes once the statement is billed. Nothing comes after a closing one."""
    following = None if statement.is_closing else next_statement(after(terms, statement))
    if following is None:
        return NextBill(at=None, usage_due=False)
    return NextBill(at=following.at, usage_due=following.has_usage)


def statements(terms: Terms) -> Iterator[Statement]:
    """All statements after `billed_until`, in order, up to the closing one; without a stop they never end."""
    while (statement := next_statement(terms)) is not None:
        yield statement
        if statement.is_closing:
            return
        terms = after(terms, statement)


def statement_at(terms: Terms, instant: datetime) -> Statement | None:
    """The first statement of the subscription's whole life that is due at the instant or later, billed or not.

    None when the subscription has ended before it.
    """
    life = statements(replace(terms, billed_until=_last_cut(terms, instant)))
    return next((statement for statement in life if statement.at >= instant), None)


def paid_until(terms: Terms, instant: datetime) -> datetime:
    """The end of the longest running period at the instant: no fee paid in advance reaches beyond it.

    This is what "cancel at period end" means. Before the start it is the start; without recurring prices the instant.
    """
    if instant < terms.start_at:
        return terms.start_at
    ends = [grid.containing(instant).end for grid in terms.grids.values()]
    return max(ends, default=instant)


def _last_cut(terms: Terms, instant: datetime) -> datetime | None:
    """The last instant before the given one at which a period begins; None when there is none."""
    if instant <= terms.start_at or not terms.grids:
        return None
    last_cut = max(grid.ending(instant).start for grid in terms.grids.values())
    return max(last_cut, terms.start_at)


def _arrears(terms: Terms, price: PlanPrice, at: datetime, *, closing: bool) -> Iterator[StatementLine]:
    """The line of the period that ends at `at`, or that the closing statement cuts off there."""
    if price.timing is not Timing.ARREARS or at <= terms.start_at:
        return
    grid = terms.grids.get(price.key)
    if grid is None:
        if closing and price.billing_period is BillingPeriod.ONCE:
            whole = Period(start=terms.start_at, end=at)
            yield _line(terms, price, period=whole, whole=whole)
        return
    whole = grid.ending(at)
    if closing or whole.end == at:
        yield _line(terms, price, period=Period(start=max(whole.start, terms.start_at), end=at), whole=whole)


def _advance(terms: Terms, price: PlanPrice, at: datetime) -> Iterator[StatementLine]:
    """The line of the period that begins at `at`; of a price that is billed once, at the start alone."""
    if price.timing is not Timing.ADVANCE:
        return
    grid = terms.grids.get(price.key)
    if grid is None:
        if at == terms.start_at:
            whole = Period(start=at, end=at)
            yield _line(terms, price, period=whole, whole=whole)
        return
    whole = grid.containing(at)
    if at in (whole.start, terms.start_at):
        yield _line(terms, price, period=_charged(terms, whole), whole=whole)


def _credit(terms: Terms, price: PlanPrice, at: datetime) -> Iterator[StatementLine]:
    """What is left, at a cancellation, of the period that an advance fee was charged for."""
    since, grid = terms.billed_until, terms.grids.get(price.key)
    if not terms.cancel_proration or since is None or grid is None:
        return
    if price.timing is not Timing.ADVANCE or not price.prorate:
        return
    whole = grid.containing(at)
    charged = _charged(terms, whole)
    unused = Period(start=at, end=charged.end)
    if since >= charged.start and unused.start < unused.end:
        yield replace(_line(terms, price, period=charged, whole=whole), period=unused, is_credit=True)


def _charged(terms: Terms, whole: Period) -> Period:
    """The part of a period that an advance fee is charged for: from the start on, up to the agreed end."""
    end = whole.end if terms.end_at is None else min(whole.end, terms.end_at)
    return Period(start=max(whole.start, terms.start_at), end=end)


def _line(terms: Terms, price: PlanPrice, *, period: Period, whole: Period) -> StatementLine:
    """The line of a period, by the price that was in effect when the period began."""
    return StatementLine(
        price=price.in_effect(period.start),
        period=period,
        whole=whole,
        quantity=None if is_usage(price) else terms.quantity(price),
    )
