"""What a bookkeeper makes of the lines that wait: invoices, with all that was billed before taken off."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from tests.billing_oracle.money import (
    ZERO,
    Body,
    Commitment,
    Discount,
    Grant,
    Paid,
    Tax,
    Totals,
    Wallet,
    committed,
    cost,
    part,
    rounded,
    totals,
)
from tests.billing_oracle.periods import Span

CREDIT_PRIORITY = 50  # of what an invoice below zero gives


@dataclass(frozen=True)
class Agreed:
    """A price and its quantity; None for usage."""

    body: Body
    quantity: Decimal | None

    @property
    def is_usage(self) -> bool:
        return self.body["type"] == "usage"

    @property
    def is_once(self) -> bool:
        return self.body.get("billing_period") == "once"

    @property
    def is_advance(self) -> bool:
        return not self.is_usage and self.body.get("timing", "advance") == "advance"


@dataclass
class Noted:
    """A line that waits for its statement. `whole`: the period that it is a part of; a credit gives back."""

    key: str
    agreed: Agreed
    span: Span
    whole: Span
    is_credit: bool = False


@dataclass(frozen=True)
class Line:
    key: str
    amount: Decimal
    span: Span
    kind: str  # fee, credit, usage, late, commitment, one_off


@dataclass
class Billed:
    """Usage that an invoice has: what it came to, with all that was adjusted since."""

    key: str
    agreed: Agreed
    span: Span
    amount: Decimal


@dataclass
class Invoice:
    at: datetime
    kind: str  # subscription, closing, threshold, adjustment, one_off
    lines: tuple[Line, ...]
    totals: Totals
    credits_applied: Decimal
    amount_due: Decimal
    paid: Paid
    is_void: bool = False


@dataclass
class Biller:
    """`usage(start, end)`: what counts now of events within."""

    currency: str
    usage: Callable[[datetime, datetime], Decimal]
    discounts: Sequence[Discount] = ()
    taxes: Sequence[Tax] = ()
    wallet: Wallet = field(default_factory=Wallet)
    invoices: list[Invoice] = field(default_factory=list[Invoice])
    billed: list[Billed] = field(default_factory=list[Billed])
    ahead: dict[tuple[str, datetime], Decimal] = field(default_factory=dict[tuple[str, datetime], Decimal])
    """What threshold invoices have billed of periods that are not billed yet, by key and start."""

    def state(
        self,
        at: datetime,
        finalized_at: datetime,
        noted: Iterable[Noted],
        *,
        is_closing: bool,
        commitment: Commitment | None = None,
        committed_since: datetime | None = None,
    ) -> None:
        """The statement of an instant. `committed_since`: a commitment of a period of its own ends here, and this is
        when that began."""
        lines = list(self._late())
        whole = ZERO  # what the usage of this statement costs, threshold invoices and all
        for each in noted:
            amount = self._amount(each)
            if each.agreed.is_usage:
                before = self.ahead.pop((each.key, each.span[0]), ZERO)
                whole += amount
                self.billed.append(Billed(each.key, each.agreed, each.span, amount))
                lines.append(Line(each.key, amount - before, each.span, "usage"))
            else:
                lines.append(Line(each.key, amount, each.span, "credit" if each.is_credit else "fee"))
        has_usage = any(line.kind == "usage" for line in lines)
        if commitment is not None and committed_since is not None:
            lines.append(self._commitment(commitment, at, self._settled(lines, committed_since, at)))
        elif commitment is not None and commitment.period is None and has_usage:
            lines.append(self._commitment(commitment, at, whole))
        self._issue(at, finalized_at, "closing" if is_closing else "subscription", lines)

    def _settled(self, lines: Sequence[Line], since: datetime, at: datetime) -> Decimal:
        """What was billed, and now is, for usage that ends within a period."""
        billed = [line for invoice in self.invoices for line in invoice.lines]
        usage = [line for line in (*billed, *lines) if line.kind in ("usage", "late") and since < line.span[1] <= at]
        return sum((line.amount for line in usage), ZERO)

    def _commitment(self, commitment: Commitment, at: datetime, settled: Decimal) -> Line:
        missing = rounded(committed(commitment, settled) - settled, self.currency)
        return Line("commitment", missing, (at, at), "commitment")

    def look(self, at: datetime, open_usage: Iterable[Noted], threshold: Decimal) -> None:
        """Bill usage of periods that go on, once it has come to a threshold."""
        lines = [
            Line(each.key, self._amount(each) - self.ahead.get((each.key, each.span[0]), ZERO), each.span, "usage")
            for each in open_usage
        ]
        if sum((line.amount for line in lines), ZERO) < threshold:
            return
        for line in lines:
            place = (line.key, line.span[0])
            self.ahead[place] = self.ahead.get(place, ZERO) + line.amount
        self._issue(at, at, "threshold", lines)

    def void(self, invoice: Invoice, now: datetime) -> None:
        """Take an invoice back. What it had billed is not billed again."""
        invoice.is_void = True
        self.wallet.give_back(invoice.paid, now)

    def adjust(self, at: datetime, finalized_at: datetime) -> None:
        """Bill what usage has come to mean since the end. Discounts of an amount were taken off before."""
        self._issue(at, finalized_at, "adjustment", list(self._late()))

    def one_off(self, at: datetime, key: str, amount: Decimal) -> None:
        """Bill something beside the subscription, whose discounts are not of it."""
        self._issue(at, at, "one_off", [Line(key, amount, (at, at), "one_off")])

    def _issue(self, at: datetime, finalized_at: datetime, kind: str, lines: Sequence[Line]) -> None:
        lines = [line for line in lines if line.amount]
        if not lines:
            return
        discounts = [each for each in self.discounts if kind != "adjustment" or each.percent is not None]
        if kind == "one_off":
            discounts = []
        found = totals([line.amount for line in lines], discounts, self.taxes, self.currency)
        paid = self.wallet.pay(max(found.total, ZERO), finalized_at)
        if found.total < 0:
            self.wallet.add(Grant(CREDIT_PRIORITY, None, finalized_at, -found.total))
        credits_applied = sum((amount for _, amount in paid), ZERO)
        due = max(found.total, ZERO) - credits_applied
        self.invoices.append(Invoice(at, kind, tuple(lines), found, credits_applied, due, paid))

    def _late(self) -> Iterator[Line]:
        """What usage that is billed has come to mean since."""
        for each in self.billed:
            amount = rounded(cost(each.agreed.body, self.usage(*each.span)), self.currency)
            if amount != each.amount:
                yield Line(each.key, amount - each.amount, each.span, "late")
                each.amount = amount

    def _amount(self, noted: Noted) -> Decimal:
        if noted.agreed.is_usage:
            return rounded(cost(noted.agreed.body, self.usage(*noted.span)), self.currency)
        assert noted.agreed.quantity is not None
        whole = cost(noted.agreed.body, noted.agreed.quantity)
        if noted.is_credit:
            return part(-whole, noted.whole, noted.span, self.currency)
        if noted.span == noted.whole:
            return rounded(whole, self.currency)
        return part(whole, noted.whole, noted.span, self.currency)
