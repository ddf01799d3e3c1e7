"""What billing passes between stores, pricing and the API: a subscription's terms, the usage they need, an invoice."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypedDict

from schemas.catalogue import MeterEntry
from schemas.instants import Period
from schemas.meters import Aggregation
from schemas.money import exactly

#: How far back from what is billed anybody looks for usage that came late.
LATE_USAGE_HORIZON = timedelta(days=400)


class InvoiceKind(StrEnum):
    """Why an invoice exists."""

    SUBSCRIPTION = "subscription"
    CLOSING = "closing"  # the last one of a subscription
    ONE_OFF = "one_off"
    THRESHOLD = "threshold"  # of usage so far, because it has come to a lot; the period's own bills the rest
    ADJUSTMENT = "adjustment"  # of usage that came after the closing one, or was taken back
    TOP_UP = "top_up"  # sells money for a wallet; no wallet pays it


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementKey:
    """What tells a statement from all others: it stands on one invoice, once. `period_end` made it due."""

    subscription_id: str
    period_end: datetime
    kind: InvoiceKind


class TrialEnd(StrEnum):
    """What becomes of a subscription at the end of its trial."""

    ACTIVATE = "activate"
    CANCEL = "cancel"
    CANCEL_WITHOUT_PAYMENT_METHOD = "cancel_without_payment_method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The terms of a subscription from `starts_at` up to the start of the next phase.

    `prices` are the bodies of the plan's version, `addons` `{addon, addon_id, version, quantity}` each, `addon_prices`
    the bodies of theirs in the same order; overrides are not applied yet (those of entitlements are whole terms by the
    feature's key). With `prorate` fees are shared out by time at the phase's start, and `invoice_now` makes a statement
    there. `is_late`: the statement at `starts_at` had been saved when the phase was made, so the phase's lines stand on
    the next one. A pause entitles to nothing, unless it `keeps_entitlements`.
    """

    no: int
    starts_at: datetime
    plan_id: str
    plan_version: int
    prices: list[dict[str, Any]]
    plan_key: str = ""
    quantities: dict[str, str] = field(default_factory=dict[str, str])
    price_overrides: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    entitlement_overrides: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    addons: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    addon_prices: list[list[dict[str, Any]]] = field(default_factory=list[list[dict[str, Any]]])
    commitment: dict[str, Any] | None = None
    is_paused: bool = False
    keeps_entitlements: bool = False
    prorate: bool = True
    invoice_now: bool = False
    is_late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledSubscription:
    """One subscription as the store has it, with what billing must know of its plan, customer and tenant.

    `row_version` changes with every change of the row: what was computed from this one is saved only over this one.
    `phases` by their start; plan, prices, quantities, overrides and commitment are those of the first. `billed_seqs`
    are by shard (as text) the last batches that were in the usage of the last statement. The payer is the customer or
    its parent; `taxes` are the payer's, and `is_consolidated` says that it gets one invoice of all that is due at one
    instant. `late_check_at`: when usage that came after the last statement is looked for.
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
    phases: tuple[Phase, ...] = ()
    trial_end_at: datetime | None = None
    trial_end_behavior: str = TrialEnd.ACTIVATE
    has_payment_method: bool = False
    billed_seqs: dict[str, int] | None = None
    invoice_threshold: Decimal | None = None
    payer_id: str | None = None  # None: the customer
    payer_external_id: str | None = None
    test_clock_id: str | None = None
    is_consolidated: bool = False
    late_check_at: datetime | None = None

    @property
    def timeline(self) -> tuple[Phase, ...]:
        """The phases; of a subscription that was made without any the one that its own fields say."""
        return self.phases or (
            Phase(
                no=0,
                starts_at=self.start_at,
                plan_id=self.plan_id,
                plan_version=self.plan_version,
                prices=self.prices,
                quantities=self.quantities,
                price_overrides=self.price_overrides,
                commitment=self.commitment,
            ),
        )

    def phase_at(self, instant: datetime) -> Phase:
        """The phase in force at an instant; before the start the first one."""
        timeline = self.timeline
        return max((each for each in timeline if each.starts_at <= instant), key=_order, default=timeline[0])

    def with_phase(self, phase: Phase) -> "BilledSubscription":
        """The subscription with one more phase, which replaces those that are scheduled to start after it. Its number
        and `is_late` follow from the subscription."""
        kept = [each for each in self.timeline if each.starts_at <= phase.starts_at]
        added = replace(
            phase,
            no=max(each.no for each in kept) + 1 if kept else 0,
            is_late=self.billed_until is not None and phase.starts_at <= self.billed_until,
        )
        return replace(self, phases=(*kept, added))


def _order(phase: Phase) -> tuple[datetime, int]:
    return phase.starts_at, phase.no


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
class Watched:
    """Usage of a customer that was billed up to `until`, by shard with the batches up to `seqs`; of a shard that is not
    named there were none."""

    subscription_id: str
    customer_no: int
    meters: tuple[MeterEntry, ...]
    until: datetime
    seqs: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledUsage:
    """What invoices have billed for one price's usage from `period.start` on, all lines together; `price` is its body
    as the lines have it."""

    subscription_id: str
    key: str
    meter_no: int
    period: Period
    price: Mapping[str, Any]
    quantity: Decimal
    amount_minor: int


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
    """One line, ready to be stored or shown. `amount` is rounded to the currency, `exact` is not. `is_credit`: it gives
    back the rest of what another line has charged."""

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
    subscription_id: str | None = None  # None: the invoice's, if it has one
    is_credit: bool = False


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

    @property
    def agreed(self) -> dict[str, object]:
        """The terms alone, without how often they have been applied so far."""
        return {name: value for name, value in self.terms.items() if name != "applied"}


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
    is after it. `status`, `discounts` None: as before. `as_of`: every event acknowledged before it is in the invoice's
    usage. `late_check_at` None: no usage that comes late is looked for."""

    subscription: BilledSubscription
    invoice: Invoice | None
    billed_until: datetime | None
    next_bill_at: datetime | None
    usage_due: bool
    status: str | None
    as_of: datetime | None
    discounts: list[dict[str, Any]] | None = None
    billed_seqs: Mapping[int, int] | None = None  # by shard, the last batch in what was measured; None: as before
    late_check_at: datetime | None = None
