"""The body of a new subscription, and the timeline that it means."""

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from infra.postgres.pool import PgConnection, Row
from ingestion_api.clock import clock_now
from ingestion_api.control.contracts import Contract, TermsBody, TermsFields, amend, new_contract
from ingestion_api.control.discount_terms import MAX_DISCOUNTS, check_discounts
from ingestion_api.control.phases import Timing, next_bill_of, to_phase
from ingestion_api.control.subscription_terms import check_terms, read_threshold, trial_end_of
from ingestion_api.control.subscription_view import TrialEndBehavior
from ingestion_api.control.versions import find as find_plan
from ingestion_api.fields import DecimalText, Instant, Metadata, Reference
from ingestion_api.idempotency import Call
from ingestion_api.problems import pointer
from schemas.billing import BilledSubscription, Phase
from schemas.errors import Reject
from schemas.ids import Prefix, new_id

MAX_TRIAL_DAYS = 3_650
MAX_NEW_PHASES = 100


class PhaseBody(TermsBody):
    """What changes at `starts_at`, as `/change` would: what is absent stays as it is in the phase before."""

    starts_at: Instant
    paused: bool = False
    proration: Literal["prorate", "none"] = "prorate"
    invoice: Literal["now", "next"] = "next"


class NewBody(TermsFields):
    """`phases` are changes that are known from the first day on. With `trial_days` the trial's end is the anchor.
    `invoice_threshold`: usage of the running period that has come to as much is invoiced before the period ends."""

    customer: Reference
    plan: Reference
    start_at: Instant | None = None
    billing_anchor: Instant | None = None
    alignment: Literal["anniversary", "calendar"] = "anniversary"
    trial_days: Annotated[int, Field(ge=0, le=MAX_TRIAL_DAYS)] = 0
    trial_end_behavior: TrialEndBehavior = "activate"
    end_at: Instant | None = None
    discounts: Annotated[list[dict[str, Any]], Field(default_factory=list, max_length=MAX_DISCOUNTS)]
    phases: Annotated[list[PhaseBody], Field(default_factory=list, max_length=MAX_NEW_PHASES)]
    invoice_threshold: DecimalText | None = None
    draft: bool = False
    metadata: Metadata
    preview: bool = False


def read_new(connection: PgConnection, body: NewBody, customer: Row, call: Call) -> BilledSubscription:
    """The subscription, still without its discounts, as it is to be stored for a customer who is locked.

    Raises NotFound, and Reject with the pointer, as `amend` and `check_terms` do.
    """
    check_discounts(body.discounts)
    _check_anchor(body)
    now = clock_now(connection, customer["test_clock_id"], call.now, hold=True)
    plan = find_plan(connection, call.tenant_id, body.plan, body.plan_version)
    if customer["currency"] not in (None, plan["currency"]):
        raise Reject.at(
            "/plan",
            "subscription.currency_mismatch",
            f"The customer pays in {customer['currency']}, the plan is in {plan['currency']}.",
        )
    start_at = body.start_at or now
    contract = new_contract(connection, body, tenant_id=call.tenant_id, plan=plan)
    first = to_phase(contract, Timing(at=start_at))
    phases = [first, *_read_phases(connection, body, contract, start_at, tenant_id=call.tenant_id)]
    trial_end = trial_end_of(start_at, body.trial_days, customer["timezone"]) if body.trial_days else None
    subscription = BilledSubscription(
        id=new_id(Prefix.SUBSCRIPTION),
        row_version="",
        tenant_id=call.tenant_id,
        tenant_no=call.principal.tenant_no,
        customer_id=customer["id"],
        customer_no=customer["no"],
        external_id=customer["external_id"],
        plan_id=first.plan_id,
        plan_version=first.plan_version,
        prices=first.prices,
        status=status_of(start_at, trial_end, now),
        currency=plan["currency"],
        timezone=customer["timezone"],
        start_at=start_at,
        billing_anchor=body.billing_anchor or trial_end or start_at,
        alignment=body.alignment,
        quantities=first.quantities,
        price_overrides=first.price_overrides,
        discounts=[],
        commitment=first.commitment,
        end_at=body.end_at,
        cancel_at=None,
        cancel_proration=False,
        billed_until=None,
        next_bill_at=None,
        phases=tuple(replace(phase, no=number) for number, phase in enumerate(phases)),
        trial_end_at=trial_end,
        trial_end_behavior=body.trial_end_behavior,
        invoice_threshold=read_threshold(body.invoice_threshold, plan["currency"]),
    )
    check_terms(subscription, now=now)
    if body.draft:
        return replace(subscription, status="draft")
    return replace(subscription, next_bill_at=next_bill_of(subscription).at)


def status_of(start_at: datetime, trial_end: datetime | None, now: datetime) -> str:
    """The status of a subscription of which nothing is billed."""
    if start_at > now:
        return "draft"
    return "trialing" if trial_end is not None and trial_end > now else "active"


def _check_anchor(body: NewBody) -> None:
    if body.billing_anchor is None:
        return
    if body.alignment == "calendar":
        raise Reject.at(
            "/billing_anchor", "subscription.invalid_anchor", "With calendar alignment the calendar is the anchor."
        )
    if body.trial_days:
        raise Reject.at("/billing_anchor", "subscription.invalid_anchor", "With a trial its end is the anchor.")


def _read_phases(
    connection: PgConnection, body: NewBody, contract: Contract, start_at: datetime, *, tenant_id: str
) -> list[Phase]:
    """The later phases, each building on the one before."""
    found: list[Phase] = []
    before = start_at
    for index, each in enumerate(body.phases):
        where = pointer("phases", index)
        if each.starts_at <= before:
            raise Reject.at(
                f"{where}/starts_at", "subscription.invalid_phase", "Must be later than the start and the phase before."
            )
        if body.end_at is not None and each.starts_at >= body.end_at:
            raise Reject.at(f"{where}/starts_at", "subscription.after_end", "The subscription has ended by then.")
        before = each.starts_at
        try:
            contract = amend(connection, contract, each, tenant_id=tenant_id)
        except Reject as error:
            raise error.under(where) from None
        timing = Timing(at=each.starts_at, prorate=each.proration == "prorate", invoice_now=each.invoice == "now")
        found.append(to_phase(contract, timing, is_paused=each.paused))
    return found
