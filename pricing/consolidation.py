"""Invoices of several subscriptions: what is due of one payer at one instant, added up.

Every statement is priced, discounted and taxed for itself, as if it stood alone; the invoice adds what they came to.
Taxes are rounded a statement, so the sum of the parts is the whole to the cent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from pricing.billing import MAX_MINOR
from pricing.invoices import MAX_LINES
from schemas.billing import BilledSubscription, BillingStep, Invoice, InvoiceKind, InvoiceTax
from schemas.instants import Period
from schemas.money import exactly, to_minor

#: Subscriptions on one invoice; of more that are due together the others stand on further ones.
MAX_TOGETHER = 200

#: Who pays, in which currency, and what is due when: statements that agree in these stand on one invoice.
Group: TypeAlias = tuple[str, str, datetime]


def group_of(subscription: BilledSubscription, at: datetime) -> Group | None:
    """With what a subscription's statement of an instant stands on one invoice; None: it stands alone."""
    if not subscription.is_consolidated:
        return None
    return (subscription.payer_id or subscription.customer_id, subscription.currency, at)


def group_of_step(step: BillingStep) -> Group | None:
    """As `group_of`; what is no statement of a period stands alone."""
    if step.invoice is None or step.invoice.kind not in (InvoiceKind.SUBSCRIPTION, InvoiceKind.CLOSING):
        return None
    return group_of(step.subscription, step.invoice.period.end)


def together(steps: Iterable[BillingStep]) -> list[list[BillingStep]]:
    """Steps with an invoice, those that stand on one each time, by the ids of their subscriptions. An invoice that
    would have more lines or larger sums than one can hold is several."""
    single: list[list[BillingStep]] = []
    groups: dict[Group, list[list[BillingStep]]] = {}
    for step in sorted(steps, key=lambda step: step.subscription.id):
        group = group_of_step(step)
        if group is None:
            single.append([step])
            continue
        parts = groups.setdefault(group, [])
        if parts and _fit([*parts[-1], step]):
            parts[-1].append(step)
        else:
            parts.append([step])
    return [*single, *(part for parts in groups.values() for part in parts)]


@exactly
def consolidate(invoices: Sequence[tuple[str, Invoice]]) -> Invoice:
    """The sum of invoices of several subscriptions, each with its subscription's id: all of one instant and currency.

    Lines and discounts say which subscription they are of.
    """
    own = [invoice for _, invoice in invoices]
    closing = all(invoice.kind is InvoiceKind.CLOSING for invoice in own)
    total = _sum(invoice.total for invoice in own)
    return Invoice(
        kind=InvoiceKind.CLOSING if closing else InvoiceKind.SUBSCRIPTION,
        period=Period(start=min(each.period.start for each in own), end=max(each.period.end for each in own)),
        currency=own[0].currency,
        lines=tuple(replace(line, subscription_id=id_) for id_, invoice in invoices for line in invoice.lines),
        subtotal=_sum(invoice.subtotal for invoice in own),
        discount=_sum(invoice.discount for invoice in own),
        tax=_sum(invoice.tax for invoice in own),
        total=total,
        credits_applied=Decimal(0),
        amount_due=max(total, Decimal(0)),
        taxes=_taxes(own),
        discounts=tuple(
            replace(discount, terms={**discount.terms, "subscription": id_})
            for id_, invoice in invoices
            for discount in invoice.discounts
        ),
    )


def _taxes(invoices: Sequence[Invoice]) -> tuple[InvoiceTax, ...]:
    """Each rate once, with the sums of its bases and amounts."""
    taxes: dict[tuple[str, str, Decimal, bool], InvoiceTax] = {}
    for tax in (tax for invoice in invoices for tax in invoice.taxes):
        rate = (tax.key, tax.name, tax.percent, tax.inclusive)
        known = taxes.get(rate)
        taxes[rate] = (
            tax if known is None else replace(known, base=known.base + tax.base, amount=known.amount + tax.amount)
        )
    return tuple(taxes.values())


@exactly
def _fit(steps: Sequence[BillingStep]) -> bool:
    invoices = [step.invoice for step in steps if step.invoice is not None]
    sums = (abs(part) for each in invoices for part in (each.subtotal, each.discount, each.tax, each.total))
    return (
        len(steps) <= MAX_TOGETHER
        and sum(len(each.lines) for each in invoices) <= MAX_LINES
        and to_minor(_sum(sums), invoices[0].currency) <= MAX_MINOR
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
