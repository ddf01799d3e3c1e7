"""What billing passes between stores, pricing and the API: a subscription's terms, the usage they need, an invoice."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypedDict

from schemas.catalogue import MeterEntry
from schemas.instants import Period
from schemas.meters import Aggregation
from schemas.money import exactly


class InvoiceKind(StrEnum):
    """Why an invoice exists. With the subscription and the end of its period it is the guard against a second one."""

    SUBSCRIPTION = "subscription"
    CLOSING = "closing"  # the last one of a subscription
    ONE_OFF = "one_off"


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledSubscription:
    """One subscription as the store has it, with what billing must know of its plan, customer and tenant.

    `row_version` changes with every change of the row: what was computed from this one is saved only over this one.
    `prices` are the bodies of the plan's version, not yet overridden.
    """

    id: str
    row_version: str
    tenant_id: str
    tenant_no: int
    customer_id: str
    customer_no: int
    external_id: str
    plan_id: str
    plan_version: int
    prices: list[dict[str, Any]]
    status: str
    currency: str
    timezone: str
    start_at: datetime
    billing_anchor: datetime
    alignment: str
    quantities: dict[str, str]
    price_overrides: dict[str, dict[str, Any]]
    discounts: list[dict[str, Any]]
    commitment: dict[str, Any] | None
    end_at: datetime | None
    cancel_at: datetime | None
    cancel_proration: bool
    billed_until: datetime | None
    next_bill_at: datetime | None
    taxes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # rates of the payer, as they are now


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """How usage is cut: the instants, ascending, at which the buckets that touch a period turn, and what each bucket's
    usage is aggregated by. `by_group`: every group of the meter for itself."""

    bounds: tuple[datetime, ...]
    aggregation: Aggregation
    by_group: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageNeed:
    """What the usage line `key` must know: what a meter counted for the subscription's customer in a period.

    As a whole and by group; or in `buckets`; or, with `each`, every value that the meter took, in the order of time.
    """

    subscription_id: str
    key: str
    tenant_no: int
    customer_no: int
    meter: MeterEntry
    period: Period
    buckets: Buckets | None = None
    each: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupQuantity:
    """Usage of one group of a meter. None stands for a property that the events did not have."""

    group: dict[str, str | None]
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredUsage:
    """What one meter counted for one customer in one period, as a whole and by group; without any group it is 0.

    Only counts and sums of the groups add up to the whole: the maximum of all is one of theirs, the average neither.
    `quantities` are those of the buckets, or the single values, where the need asked for these; then `quantity` is
    their sum, and so are the groups' of buckets by group. A bucket without usage is not there.
    """

    meter_no: int
    quantity: Decimal
    groups: tuple[GroupQuantity, ...]
    quantities: tuple[Decimal, ...] = ()


class ExplainedRow(TypedDict):
    """One summand of a line, in decimal text: quantity x unit amount, or an amount alone."""

    what: str
    quantity: str | None
    unit_amount: str | None
    amount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line, ready to be stored or shown. `amount` is rounded to the currency, `exact` is not."""

    key: str
    description: str
    quantity: Decimal | None
    unit_amount: Decimal | None
    exact: Decimal
    amount: Decimal
    period: Period
    price: Mapping[str, object]
    explain: list[ExplainedRow]
    meter_no: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceTax:
    """What one tax rate came to on an invoice, with the rate as it was."""

    key: str
    name: str
    percent: Decimal
    inclusive: bool
    base: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDiscount:
    """What one of an invoice's own discounts came to; `terms` is it as it was agreed, e.g. `{"percent": "10"}`."""

    terms: Mapping[str, object]
    taken: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice as pricing computed it: all of it but its identity and number. Amounts are in currency units."""

    kind: InvoiceKind
    period: Period
    currency: str
    lines: tuple[InvoiceLine, ...]
    subtotal: Decimal
    discount: Decimal
    tax: Decimal
    total: Decimal
    credits_applied: Decimal
    amount_due: Decimal
    taxes: tuple[InvoiceTax, ...] = ()
    discounts: tuple[InvoiceDiscount, ...] = ()

    @exactly
    def paid_from(self, balance: Decimal) -> "Invoice":
        """The invoice with as much of what is due as the customer's balance of credit pays; nothing else changes."""
        used = max(min(balance, self.amount_due), Decimal(0))
        return replace(self, credits_applied=self.credits_applied + used, amount_due=self.amount_due - used)


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingStep:
    """One statement of one subscription, ready to be saved: its invoice, if it has lines, and what the subscription
    is after it. `status` None: as before. `as_of`: every event acknowledged before it is in the invoice's usage."""

    subscription: BilledSubscription
    invoice: Invoice | None
    billed_until: datetime | None
    next_bill_at: datetime | None
    usage_due: bool
    status: str | None
    as_of: datetime | None
