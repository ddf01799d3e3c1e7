"""Statements: which invoice of a subscription comes next, when, and with which lines. Nothing is priced here.

A subscription's life is cut at instants: its start, every end of a period of one of its prices, changes that are to be
invoiced at once, and its stop. Each instant makes one statement due. It has the advance fees of the periods that begin
there, the arrears fees and the usage of the periods that end there, and what changes since the statement before cut
off, credit and charge. So the first statement has advance lines alone, usage of period n stands beside the advance
lines of period n + 1, and the closing one has no advance lines. The periods of the statements tile the subscription's
life: no gap, no overlap.

All of it follows from the terms and from `billed_until`; a change that is scheduled makes the same lines as one that is
made when it comes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from pricing.commitments import AgreedCommitment
from pricing.lines import StatementLine, run_lines
from pricing.runs import MOMENT, Run
from pricing.terms import PhaseTerms, Terms
from schemas.billing import InvoiceKind
from schemas.errors import Reject
from schemas.instants import Period

MAX_STATEMENTS_AHEAD = 4_000  # that are gone through for the one of an instant: eleven years of days


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentDue:
    """A commitment that is held against usage: of the statement, or of all that was billed and ends within `period`."""

    agreed: AgreedCommitment
    period: Period

    @property
    def spans_statements(self) -> bool:
        return self.agreed.billing_period is not None

    def has(self, billed: Period) -> bool:
        """Whether usage of a period counts towards it."""
        return not self.spans_statements or self.period.start < billed.end <= self.period.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is due at `at`. `period` reaches from the statement before to `at`; the first one's is empty."""

    at: datetime
    kind: InvoiceKind
    period: Period
    lines: tuple[StatementLine, ...]
    commitment: CommitmentDue | None = None

    @property
    def has_usage(self) -> bool:
        return any(line.is_usage for line in self.lines)

    @property
    def is_closing(self) -> bool:
        return self.kind is InvoiceKind.CLOSING

    @property
    def is_empty(self) -> bool:
        """Whether it makes no invoice."""
        return not self.lines and self.commitment is None


@dataclass(frozen=True, slots=True, kw_only=True)
class NextBill:
    """What a subscription's row says of its next statement. `at` None: there is none."""

    at: datetime | None
    usage_due: bool


def next_instant(terms: Terms) -> datetime | None:
    """When the next statement is due; None when nothing recurs and nothing ends.

    A stop that lies before what is billed already comes due at once, with nothing but credits.
    """
    since, stop_at = terms.billed_until, terms.stop_at
    if since is None:
        return terms.begins_at if stop_at is None else min(terms.begins_at, stop_at)
    instants = {at for run in terms.runs if (at := _next_cut(run, since)) is not None}
    instants.update(_invoiced_changes(terms, since))
    instants.update(_commitment_ends(terms, since))
    if not instants:
        dues = (due for run in terms.runs for due in (run.starts_due, run.ends_due) if due is not None)
        instants.update(due for due in dues if due > since)
    if stop_at is not None:
        instants.add(max(stop_at, since))
    return min(instants, default=None)


def next_statement(terms: Terms) -> Statement | None:
    """The statement after `billed_until`; None when there is none. An empty one makes no invoice."""
    at = next_instant(terms)
    if at is None:
        return None
    since = terms.billed_until
    closing = terms.stop_at is not None and at >= terms.stop_at
    lines = [line for run in terms.runs for line in run_lines(terms, run, at, closing=closing)]
    return Statement(
        at=at,
        kind=InvoiceKind.CLOSING if closing else InvoiceKind.SUBSCRIPTION,
        period=Period(start=at if since is None else since, end=at),
        lines=_named(lines),
        commitment=_commitment(terms, lines, at, closing=closing),
    )


def after(terms: Terms, statement: Statement) -> Terms:
    """The terms once the statement is billed."""
    return replace(terms, billed_until=statement.at)


def next_bill(terms: Terms, statement: Statement) -> NextBill:
    """What comes once the statement is billed. Nothing comes after a closing one."""
    following = None if statement.is_closing else next_statement(after(terms, statement))
    return bill_of(following)


def bill_of(statement: Statement | None) -> NextBill:
    """What a subscription's row says of this statement that comes next."""
    if statement is None:
        return NextBill(at=None, usage_due=False)
    return NextBill(at=statement.at, usage_due=statement.has_usage)


def statements(terms: Terms) -> Iterator[Statement]:
    """All statements after `billed_until`, in order, up to the closing one; without a stop they never end."""
    while (statement := next_statement(terms)) is not None:
        yield statement
        if statement.is_closing:
            return
        terms = after(terms, statement)


def statement_at(terms: Terms, instant: datetime) -> Statement | None:
    """The first statement of the subscription's whole life that is due at the instant or later, billed or not.

    None when the subscription has ended before it. Raises Reject `subscription.too_far_ahead` beyond
    MAX_STATEMENTS_AHEAD from what is billed (from the start, for what is billed already).
    """
    if terms.billed_until is None or terms.billed_until >= instant:
        terms = replace(terms, billed_until=None)
    for _ in range(MAX_STATEMENTS_AHEAD):
        at = next_instant(terms)
        if at is None or at >= instant:
            return next_statement(terms)
        if terms.stop_at is not None and at >= terms.stop_at:
            return None
        terms = replace(terms, billed_until=at)
    raise Reject("subscription.too_far_ahead", f"More than {MAX_STATEMENTS_AHEAD} invoices lie before that instant.")


def unbilled_at(terms: Terms, instant: datetime) -> Statement | None:
    """The first statement that is not billed yet and due at the instant or later.

    What is billed up to the instant, or beyond it, is not billed again: then it is simply the next one. None and raises
    as `statement_at`; once a closing statement is billed ask no more.
    """
    if terms.billed_until is None or terms.billed_until < instant:
        return statement_at(terms, instant)
    return next_statement(terms)


def paid_until(terms: Terms, instant: datetime) -> datetime:
    """The end of the longest running period at the instant: no fee paid in advance reaches beyond it.

    This is what "cancel at period end" means. Before the start, or in a trial, it is the end of that; without recurring
    prices the instant.
    """
    if instant < terms.begins_at:
        return terms.begins_at
    ends = [run.grid.containing(instant).end for run in terms.runs if run.grid is not None and run.is_open_at(instant)]
    return max(ends, default=instant)


def _next_cut(run: Run, since: datetime) -> datetime | None:
    """The end of the period in which the run has something that is not billed yet; None when it has nothing."""
    if run.grid is None:
        return None
    if run.starts_due > since:
        at = run.grid.ending(run.start).end
        return at if at > since else run.grid.containing(run.start).end
    if run.end is None or run.end > since or (run.ends_due is not None and run.ends_due > since):
        return run.grid.containing(since).end
    return None


def _invoiced_changes(terms: Terms, since: datetime) -> Iterator[datetime]:
    for phase in terms.phases:
        due = phase.starts_at + MOMENT if phase.is_late else phase.starts_at
        if phase.invoice_now and due > max(since, terms.begins_at):
            yield due


def _commitment_ends(terms: Terms, since: datetime) -> Iterator[datetime]:
    """Ends of periods of the commitments' own."""
    for phase in terms.phases:
        if phase.commitment_grid is not None:
            end = phase.commitment_grid.containing(max(since, phase.starts_at)).end
            if _phase_before(terms, end) is phase:
                yield end


def _phase_before(terms: Terms, instant: datetime) -> PhaseTerms:
    return terms.phase_at(instant - MOMENT)


def _commitment(terms: Terms, lines: list[StatementLine], at: datetime, *, closing: bool) -> CommitmentDue | None:
    since, phase = terms.billed_until, _phase_before(terms, at)
    if phase.commitment is None:
        return None
    if phase.commitment_grid is None:
        if not any(line.is_usage for line in lines):
            return None
        return CommitmentDue(agreed=phase.commitment, period=Period(start=at if since is None else since, end=at))
    whole = phase.commitment_grid.ending(at)
    if since is None or since >= at or not (closing or whole.end == at):
        return None
    return CommitmentDue(agreed=phase.commitment, period=Period(start=max(whole.start, terms.begins_at), end=at))


def _named(lines: list[StatementLine]) -> tuple[StatementLine, ...]:
    """Lines of usage with names that tell them from each other: a price that has changed has several."""
    seen: dict[str, int] = {}
    named: list[StatementLine] = []
    for line in lines:
        key = line.price.key
        number = seen[key] = seen.get(key, 0) + 1 if line.is_usage else 1
        named.append(line if number == 1 else replace(line, name=f"{key}/{number}"))
    return tuple(named)
