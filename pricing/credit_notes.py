"""What a credit note takes back of an invoice: never more than is left of it, and in the end all of it to the cent.

The total of an invoice, after discounts and with tax, is shared out over its lines; so are its taxes over what is taken
back. Every share is of what is left, so no rounding is ever lost or taken twice.
"""

from collections.abc import Mapping
from decimal import Decimal

from pricing.discounts import spread
from pricing.explain import ZERO
from schemas.credit_notes import Credited, CreditedInvoice, LineCredit
from schemas.errors import Reject
from schemas.money import currency_exponent, exactly, round_ratio

EXCEEDS_INVOICE = "credit_note.exceeds_invoice"
EXCEEDS_LINE = "credit_note.exceeds_line"


@exactly
def credit_amount(invoice: CreditedInvoice, amount: Decimal) -> Credited:
    """Take back an amount, with tax, of the lines that have something left, in proportion to that. Raises Reject."""
    left = invoice.total - invoice.credited
    if amount > left:
        raise Reject.at("/amount", EXCEEDS_INVOICE, f"only {left} {invoice.currency} are left of the invoice")
    scale = currency_exponent(invoice.currency)
    shares = _left_of_lines(invoice, scale)
    places = [place for place, share in shares.items() if share.total > 0]
    parts = spread(amount, [shares[place].total for place in places], scale)
    lines = {
        place: LineCredit(amount=round_ratio(shares[place].amount * part, shares[place].total, scale), total=part)
        for place, part in zip(places, parts, strict=True)
        if part
    }
    return Credited(amount=amount, taxes=_taxes(invoice, amount, scale), lines=lines)


@exactly
def credit_lines(invoice: CreditedInvoice, amounts: Mapping[int, tuple[Decimal, str]]) -> Credited:
    """Take back amounts of lines, each as the line shows it (before invoice discounts and exclusive taxes, which are
    shared out), by place with the pointer of the field. Raises Reject."""
    if invoice.total <= invoice.credited:  # and lines that cancel out could not be shared out
        left = invoice.total - invoice.credited
        raise Reject.at("/lines", EXCEEDS_INVOICE, f"only {left} {invoice.currency} are left of the invoice")
    scale = currency_exponent(invoice.currency)
    shares = _left_of_lines(invoice, scale)
    lines: dict[int, LineCredit] = {}
    for place, (amount, pointer) in amounts.items():
        left = shares[place]
        if amount > left.amount:
            raise Reject.at(pointer, EXCEEDS_LINE, f"only {max(left.amount, ZERO)} {invoice.currency} are left of it")
        lines[place] = LineCredit(amount=amount, total=round_ratio(left.total * amount, left.amount, scale))
    total = sum((line.total for line in lines.values()), ZERO)
    if total > invoice.total - invoice.credited:
        left_of_all = invoice.total - invoice.credited
        raise Reject.at("/lines", EXCEEDS_INVOICE, f"only {left_of_all} {invoice.currency} are left of the invoice")
    if total <= 0:
        raise Reject.at("/lines", EXCEEDS_INVOICE, "these lines came to nothing on the invoice")
    return Credited(amount=total, taxes=_taxes(invoice, total, scale), lines=lines)


def _left_of_lines(invoice: CreditedInvoice, scale: int) -> dict[int, LineCredit]:
    """What is left of each line. A negative line has nothing that could be taken back."""
    totals = spread(invoice.total, invoice.lines, scale)
    none = LineCredit(amount=ZERO, total=ZERO)
    left: dict[int, LineCredit] = {}
    for place, (amount, total) in enumerate(zip(invoice.lines, totals, strict=True)):
        before = invoice.credited_lines.get(place, none)
        left[place] = LineCredit(amount=amount - before.amount, total=total - before.total) if amount > 0 else none
    return left


def _taxes(invoice: CreditedInvoice, amount: Decimal, scale: int) -> tuple[Decimal, ...]:
    """The taxes in an amount that is taken back: it is shared out over the net and each tax that are left."""
    taxes = [tax - before for tax, before in zip(invoice.taxes, invoice.credited_taxes, strict=True)]
    net = invoice.total - invoice.credited - sum(taxes, ZERO)
    _, *shared = spread(amount, [net, *taxes], scale)
    return tuple(shared)
