"""What an invoice's document says: everything that was fixed when the invoice was finalized, and nothing else.

Payments, credit notes and a later end are no part of it, so it is the same whenever it is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from schemas.errors import Conflict
from schemas.instants import Period
from schemas.invoicing import Parties
from schemas.money import EXACT, from_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """Whose lines follow: a subscription, and its customer's external_id."""

    subscription_id: str
    customer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentLine:
    """`heading`: of the subscription whose first line this is, on an invoice of several."""

    description: str
    quantity: Decimal | None
    unit_amount: Decimal | None
    amount: Decimal
    heading: Heading | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTax:
    name: str
    percent: Decimal
    inclusive: bool
    base: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDocument:
    """A final invoice, ready to be written down. Days are those of the customer's time zone; `period` is None where it
    is an instant."""

    number: str
    currency: str
    parties: Parties
    issued_at: datetime
    issued_on: date
    due_on: date
    period: tuple[date, date] | None
    lines: tuple[DocumentLine, ...]
    subtotal: Decimal
    discount: Decimal
    taxes: tuple[DocumentTax, ...]
    total: Decimal
    credits_applied: Decimal

    @property
    def to_pay(self) -> Decimal:
        """What was due when it was issued; less than 0 is owed to the customer."""
        return EXACT.subtract(self.total, self.credits_applied)


def read_document(
    invoice: dict[str, Any], lines: Sequence[dict[str, Any]], parties: Parties, customers: Mapping[str, str]
) -> InvoiceDocument:
    """The document of a stored invoice and its lines; `customers` has the external_ids by subscription. Raises Conflict
    `invoice.draft` for a draft."""
    if invoice["status"] == "draft":
        raise Conflict("invoice.draft", f"Invoice {invoice['id']} is a draft; it has a document once it is finalized.")
    currency = invoice["currency"]
    tz = ZoneInfo(parties.timezone)
    period = Period(start=invoice["period_start"], end=invoice["period_end"])
    return InvoiceDocument(
        number=invoice["number"],
        currency=currency,
        parties=parties,
        issued_at=invoice["finalized_at"],
        issued_on=invoice["finalized_at"].astimezone(tz).date(),
        due_on=(invoice["due_at"] or invoice["finalized_at"]).astimezone(tz).date(),
        period=_days(period, tz),
        lines=tuple(
            DocumentLine(
                description=line["description"],
                quantity=line["quantity"],
                unit_amount=line["unit_amount"],
                amount=from_minor(line["amount_minor"], currency),
                heading=heading,
            )
            for line, heading in zip(lines, _headings(lines, customers), strict=True)
        ),
        subtotal=from_minor(invoice["subtotal_minor"], currency),
        discount=from_minor(invoice["discount_minor"], currency),
        taxes=tuple(
            DocumentTax(
                name=tax["name"],
                percent=Decimal(tax["percent"]),
                inclusive=tax["inclusive"],
                base=Decimal(tax["base"]),
                amount=Decimal(tax["amount"]),
            )
            for tax in invoice["taxes"]
        ),
        total=from_minor(invoice["total_minor"], currency),
        credits_applied=from_minor(invoice["credits_applied_minor"], currency),
    )


def _headings(lines: Sequence[dict[str, Any]], customers: Mapping[str, str]) -> list[Heading | None]:
    """By line, the heading before it. What one subscription has alone needs none."""
    ids = [line["subscription_id"] for line in lines]
    if len(set(ids)) < 2:
        return [None] * len(ids)
    return [
        None if id_ is None or id_ == before else Heading(subscription_id=id_, customer=customers[id_])
        for before, id_ in zip([None, *ids], ids, strict=False)
    ]


def _days(period: Period, tz: ZoneInfo) -> tuple[date, date] | None:
    """First and last day."""
    if period.start == period.end:
        return None
    return period.start.astimezone(tz).date(), (period.end - datetime.resolution).astimezone(tz).date()
