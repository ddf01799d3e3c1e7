"""What is to come: the next invoice as it stands, and the running cost of the open period. Never writes.

Terms, statement, usage and prices go through the very functions that issue invoices, so that a preview of a period
and its invoice are equal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import compress
from typing import Any, Literal, NoReturn

from starlette.responses import Response
from typing_extensions import TypedDict

from infra.clickhouse.metering import measure
from infra.late_usage import load_late
from infra.postgres.billed_usage import load_begun, load_usage_billed
from infra.postgres.billing import (
    load_meters,
    load_stored_seqs,
    load_subscription,
    load_subscriptions,
    load_to_come,
)
from infra.postgres.credits import load_spendable
from infra.postgres.meters import complete_until
from infra.postgres.pool import PgConnection
from infra.postgres.shards import usage_as_of
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.clock import Now, clock_now
from ingestion_api.context import Context, FromContext
from ingestion_api.control.customers import find as find_customer
from ingestion_api.control.invoice_views import InvoiceView, LineView, discounts_of, taxes_of, text_of
from ingestion_api.fields import Body, Instant, Reference
from ingestion_api.idempotency import Call, ReadCall
from ingestion_api.routing import house_router
from ingestion_api.views import Period
from pricing.adjustments import adjustment_needs, watch, without_open
from pricing.billing import price_statement, usage_needs
from pricing.consolidation import MAX_TOGETHER, consolidate
from pricing.statements import Statement, next_statement, statement_at, unbilled_at
from pricing.terms import Terms, read_terms
from schemas.billing import BilledSubscription, BilledUsage, Invoice, InvoiceLine, UsageNeed, Watched
from schemas.errors import Conflict, MeterlineError, NotFound, Reject
from schemas.instants import Period as Span
from schemas.invoice_lines import line_id
from schemas.money import EXACT, format_amount, format_decimal, from_minor

NOTHING_TO_COME = "invoice.nothing_to_come"

router = house_router("invoices")


class PreviewBody(Body):
    """Of a `subscription`, or of a `customer` who pays for several and gets one invoice of them. `as_of`: the invoice
    that covers this instant, with usage up to it; default: now, with all usage there is. It is paid from what the
    payer's wallet, as it is now, will hold when the invoice is due."""

    subscription: Reference | None = None
    customer: Reference | None = None
    as_of: Instant | None = None


class RunningView(TypedDict):
    """The usage of the open period and what it costs so far, line by line. `total` adds the lines, before the
    invoice's own discounts, commitment and taxes."""

    object: Literal["subscription_usage"]
    subscription: str
    customer: str
    currency: str
    period: Period
    lines: list[LineView]
    total: str
    as_of: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What PostgreSQL says of an invoice to come: all that is needed to measure and price it without a transaction."""

    subscription: BilledSubscription
    terms: Terms
    statement: Statement
    needs: Sequence[UsageNeed]
    credit: Decimal  # what of the payer's wallet would pay it
    usage_billed: Decimal  # by other invoices, of the period of the statement's commitment
    complete_until: datetime | None
    watched: Watched | None  # what was billed before and may have changed
    shards: Sequence[int]
    progress: Sequence[BilledUsage]  # of the periods of the statement's own lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """An invoice that is not issued yet. Every event acknowledged before `as_of` is in its usage. `subscription_ids`
    are those that stand on it, the subscription first."""

    subscription: BilledSubscription
    subscription_ids: tuple[str, ...]
    statement: Statement
    invoice: Invoice
    as_of: datetime | None


@router.post("/v1/invoices/preview", response_model=InvoiceView, operation_id="preview_invoice")
def preview_invoice(body: PreviewBody, call: ReadCall, context: FromContext) -> Response:
    """The next invoice as it stands now: usage of the open period so far, and the fees of the next in advance."""

    if (body.subscription is None) == (body.customer is None):
        code = "request.missing_field" if body.customer is None else "request.invalid_field"
        raise Reject.at("/subscription", code, "Name either a subscription or a customer.")

    def effect() -> InvoiceView:
        if body.subscription is None:
            drafts = _load_payer_drafts(context, call.tenant_id, body.customer or "", as_of=body.as_of, now=call.now)
            return to_view(price_together(context, drafts), now=call.now)
        draft = _load_draft(context, call.tenant_id, body.subscription, as_of=body.as_of, now=call.now)
        return to_view(price_draft(context, draft), now=call.now)

    return answer_unheld(call, effect)


@router.get("/v1/subscriptions/{subscription}/usage", response_model=RunningView, operation_id="get_subscription_usage")
def get_subscription_usage(subscription: str, principal: Reader, context: FromContext, now: Now) -> Response:
    """What the usage of the open period costs so far."""
    draft = _load_draft(context, principal.tenant_id, subscription, as_of=None, now=now)
    return answer(to_running(price_draft(context, draft)))


def answer_unheld(call: Call, effect: Callable[[], Any]) -> Response:
    """Answer with the view that `effect` finds, which opens its own short transactions and changes nothing.

    It runs before the transaction that keeps its answer under an Idempotency-Key: no connection to PostgreSQL is held
    while ClickHouse works. What it refuses is kept like what it finds.
    """
    try:
        view = effect()
    except MeterlineError as error:
        refusal = error
    else:
        return call.compute(lambda: view)

    def refuse() -> NoReturn:
        raise refusal

    return call.compute(refuse)


def _load_draft(
    context: Context, tenant_id: str, subscription_id: str, *, as_of: datetime | None, now: datetime
) -> Draft:
    """Raises NotFound, Conflict when the subscription has ended, Retry when PostgreSQL is away."""
    with context.database.transaction() as connection:
        subscription = load_subscription(connection, tenant_id=tenant_id, subscription_id=subscription_id)
        if subscription is None:
            raise NotFound("subscription.not_found", f"There is no subscription {subscription_id!r}.")
        terms = read_terms(subscription)
        at = clock_now(connection, subscription.test_clock_id, now)
        statement = _statement(subscription, terms, as_of=as_of, now=at)
        return make_draft(connection, context, subscription, terms, statement, as_of=as_of)


def _load_payer_drafts(
    context: Context, tenant_id: str, reference: str, *, as_of: datetime | None, now: datetime
) -> list[Draft]:
    """The drafts of what is due first of all that a customer pays for, who gets one invoice of it. Raises NotFound,
    and Conflict when nothing is to come, or on invoices of their own."""
    with context.database.transaction() as connection:
        payer = find_customer(connection, tenant_id, reference)
        found = load_subscriptions(connection, load_to_come(connection, payer["id"], limit=MAX_TOGETHER))
        if not found:
            raise Conflict(NOTHING_TO_COME, "No subscription that this customer pays for is to be invoiced.")
        if not found[0].is_consolidated:
            raise Conflict(
                "invoice.not_consolidated", "This customer gets an invoice a subscription: name the subscription."
            )
        at = clock_now(connection, found[0].test_clock_id, now)
        due = [
            (each, terms, _statement(each, terms, as_of=as_of, now=at))
            for each in found
            for terms in [read_terms(each)]
        ]
        first = min((statement.at, each.currency) for each, _, statement in due)
        return [
            make_draft(connection, context, each, terms, statement, as_of=as_of)
            for each, terms, statement in due
            if (statement.at, each.currency) == first
        ]


def price_together(context: Context, drafts: Sequence[Draft]) -> Preview:
    """Drafts of one payer and instant, priced each for itself and added up."""
    previews = [price_draft(context, draft) for draft in drafts]
    kept = [each for each in previews if each.invoice.lines] or previews[:1]
    if len(kept) == 1:
        return kept[0]
    invoice = consolidate([(each.subscription.id, each.invoice) for each in kept])
    return replace(
        kept[0],
        subscription_ids=tuple(each.subscription.id for each in kept),
        invoice=invoice.paid_from(drafts[0].credit),
        as_of=min((each.as_of for each in kept if each.as_of is not None), default=None),
    )


def make_draft(
    connection: PgConnection,
    context: Context,
    subscription: BilledSubscription,
    terms: Terms,
    statement: Statement,
    *,
    as_of: datetime | None = None,
) -> Draft:
    """The draft of a statement's invoice, with usage up to `as_of` if given."""
    settings = context.settings
    stored_until = usage_as_of(connection, topic=settings.events_topic, partitions=settings.events_partitions)
    meters = load_meters(connection, [subscription.tenant_id])
    needs = usage_needs(subscription, statement, meters)
    if as_of is not None:
        needs = [_clip(need, as_of) for need in needs]
    payer_id = subscription.payer_id or subscription.customer_id
    due = statement.commitment
    wanted = [(subscription.id, due.period)] if due is not None and due.spans_statements else []
    billed = load_usage_billed(connection, wanted)
    usage_starts = [line.period.start for line in statement.lines if line.is_usage]
    starts = {subscription.id: min(usage_starts)} if usage_starts else {}
    return Draft(
        subscription=subscription,
        terms=terms,
        statement=statement,
        needs=needs,
        credit=load_spendable(connection, customer_id=payer_id, currency=terms.currency, at=statement.at),
        usage_billed=from_minor(billed.get(subscription.id, 0), terms.currency),
        complete_until=complete_until(
            connection, meter_nos=sorted({need.meter.meter_no for need in needs}), as_of=stored_until
        ),
        watched=watch(subscription, terms, statement, meters),
        shards=sorted(load_stored_seqs(connection)),
        progress=load_begun(connection, starts).get(subscription.id, ()),
    )


def price_draft(context: Context, draft: Draft) -> Preview:
    """Measure and price a draft, outside of any transaction: this may take ClickHouse a while."""
    watched = [] if draft.watched is None else [draft.watched]
    found = load_late(context.database, context.clickhouse, watched, draft.shards)
    late = without_open(found.get(draft.subscription.id, []), draft.terms, draft.statement)
    by_no = {meter.meter_no: meter for each in watched for meter in each.meters}
    again = adjustment_needs(draft.subscription, late, by_no)
    invoice = price_statement(
        draft.terms,
        draft.statement,
        measure(context.clickhouse, [*draft.needs, *again]).of(draft.subscription.id),
        usage_billed=draft.usage_billed,
        late=late,
        progress=draft.progress,
    )
    return Preview(
        subscription=draft.subscription,
        subscription_ids=(draft.subscription.id,),
        statement=draft.statement,
        invoice=invoice.paid_from(draft.credit),
        as_of=draft.complete_until if draft.statement.has_usage else None,
    )


def _statement(subscription: BilledSubscription, terms: Terms, *, as_of: datetime | None, now: datetime) -> Statement:
    """The statement that covers `as_of`, billed or not; without it, the one not billed yet that covers `now`: at the
    very end of a period whose invoice is there already, the next. Of a subscription that has ended, the closing
    statement if it is not issued yet."""
    if as_of is not None:
        statement = statement_at(terms, as_of)
    elif subscription.next_bill_at is None and terms.billed_until is not None:
        statement = None
    else:
        statement = unbilled_at(terms, now)
    if statement is None and subscription.next_bill_at is not None:
        statement = next_statement(terms)
    if statement is None and (terms.stop_at is None or terms.stop_at > now):
        raise Conflict(NOTHING_TO_COME, "None of the subscription's prices recurs: nothing of it is to be invoiced.")
    if statement is None:
        raise Conflict("subscription.ended", "The subscription has ended: nothing more will be invoiced.")
    return statement


def _clip(need: UsageNeed, as_of: datetime) -> UsageNeed:
    end = max(need.period.start, min(need.period.end, as_of))
    return replace(need, period=Span(start=need.period.start, end=end))


def to_view(preview: Preview, *, now: datetime) -> InvoiceView:
    """The invoice as it would be issued, in the shape of one."""
    invoice, subscription = preview.invoice, preview.subscription
    currency = invoice.currency
    return {
        "object": "invoice",
        "id": None,
        "number": None,
        "status": "draft",
        "kind": invoice.kind.value,
        "customer": subscription.payer_external_id or subscription.external_id,
        "customer_id": subscription.payer_id or subscription.customer_id,
        "subscription": subscription.id if len(preview.subscription_ids) == 1 else None,
        "subscriptions": sorted(preview.subscription_ids),
        "currency": currency,
        "period": {"start": invoice.period.start, "end": invoice.period.end},
        "subtotal": format_amount(invoice.subtotal, currency),
        "discount": format_amount(invoice.discount, currency),
        "tax": format_amount(invoice.tax, currency),
        "total": format_amount(invoice.total, currency),
        "credits_applied": format_amount(invoice.credits_applied, currency),
        "amount_due": format_amount(invoice.amount_due, currency),
        "amount_paid": format_amount(Decimal(0), currency),
        "amount_remaining": format_amount(invoice.amount_due, currency),
        "amount_credited": format_amount(Decimal(0), currency),
        "amount_refunded": format_amount(Decimal(0), currency),
        "discounts": discounts_of(invoice),
        "taxes": taxes_of(invoice),
        "lines": _to_lines(preview),
        "as_of": preview.as_of,
        "metadata": {},
        "created_at": now,
        "draft_until": None,
        "issued_at": None,
        "finalized_at": None,
        "due_at": None,
        "paid_at": None,
        "voided_at": None,
        "marked_uncollectible_at": None,
        "dunning": None,
    }


def to_running(preview: Preview) -> RunningView:
    """The usage lines of a preview, added up."""
    currency = preview.invoice.currency
    usage = [line.meter_no is not None for line in preview.invoice.lines]
    total = Decimal(0)
    for line in compress(preview.invoice.lines, usage):
        total = EXACT.add(total, line.amount)
    return {
        "object": "subscription_usage",
        "subscription": preview.subscription.id,
        "customer": preview.subscription.external_id,
        "currency": currency,
        "period": {"start": preview.statement.period.start, "end": preview.statement.period.end},
        "lines": list(compress(_to_lines(preview), usage)),
        "total": format_amount(total, currency),
        "as_of": preview.as_of,
    }


def _to_lines(preview: Preview) -> list[LineView]:
    invoice, own = preview.invoice, preview.subscription.id
    is_single = len(preview.subscription_ids) == 1
    return [
        _to_line(
            line,
            line.subscription_id or own,
            invoice.currency,
            line_id(
                invoice_id="/".join(preview.subscription_ids),
                subscription_id=own if is_single else None,
                kind=invoice.kind,
                period_end=invoice.period.end,
                position=position,
            ),
        )
        for position, line in enumerate(invoice.lines)
    ]


def _to_line(line: InvoiceLine, subscription_id: str, currency: str, id_: str) -> LineView:
    return {
        "id": id_,
        "subscription": subscription_id,
        "key": line.key,
        "description": line.description,
        "quantity": text_of(line.quantity),
        "unit_amount": text_of(line.unit_amount),
        "exact": format_decimal(line.exact),
        "amount": format_amount(line.amount, currency),
        "currency": currency,
        "period": {"start": line.period.start, "end": line.period.end},
        "price": {**line.price},
        "explain": [{**row} for row in line.explain],
    }
