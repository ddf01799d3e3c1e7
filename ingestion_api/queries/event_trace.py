"""An event's way, step by step: what happened when, and why."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from typing_extensions import TypedDict

from infra.clickhouse.events import Decision, StoredEvent
from infra.postgres.event_invoices import EventInvoice
from ingestion_api.queries.event_conflicts import Compared
from ingestion_api.queries.event_meters import KnownMeter, LeftOut, Metered, Taken, unreadable_reason
from schemas.errors import Reject
from schemas.matching import INVALID_VALUE, matches, parse_data
from schemas.money import format_decimal

UNKNOWN_SUBJECT = "event.unknown_subject"
MAX_LEFT_OUT_IN_TRACE = 50


class TraceStep(TypedDict):
    """One step of an event's way. `at` is null where only the order is known."""

    at: datetime | None
    step: str
    detail: str


def trace(
    metered: Metered,
    *,
    customers: Mapping[int, str],
    compared: Compared,
    meters: Sequence[KnownMeter],
    invoices: Mapping[int, EventInvoice],
) -> list[TraceStep]:
    """All steps by their time, those without one last. At one time: its receipt, its copies, then decision by decision,
    and the invoices at last.

    `customers` by number, `invoices` by the number of the meter whose usage they bill; `meters` are those of the type.
    """
    event = metered.event
    steps = [_received(event), *_copies(compared)]
    counting = event.counting
    for position, decision in enumerate(event.decisions):
        if decision.status == "voided":
            steps.append(_step(decision.judged_at, "voided", _voided(event, position)))
            continue
        if position:
            steps.append(_step(decision.judged_at, "replayed", _place_of(event, decision)))
        customer = customers.get(decision.customer_no)
        if customer is not None:
            steps.append(_step(decision.judged_at, "customer", f"{event.subject!r} is the customer {customer!r}."))
        if decision.status == "quarantined":
            steps.append(_step(decision.judged_at, "quarantined", _quarantined(event, decision, meters)))
        elif decision is counting:
            steps += _meters(metered, decision)
    for taken in metered.taken:
        invoice = invoices.get(taken.meter.entry.meter_no)
        if invoice is not None:
            steps.append(_billed(taken, invoice))
    return sorted(steps, key=_time_of)


def _time_of(step: TraceStep) -> tuple[bool, datetime]:
    return (False, step["at"]) if step["at"] is not None else (True, datetime.max.replace(tzinfo=UTC))


def _step(at: datetime | None, step: str, detail: str) -> TraceStep:
    return {"at": at, "step": step, "detail": detail}


def _received(event: StoredEvent) -> TraceStep:
    place = f"partition {event.partition}, offset {event.offset}, place {event.index}"
    untimed = " It came without a time, so this is its time." if event.untimed else ""
    return _step(event.received_at, "received", f"The broker has it: {place} of the log.{untimed}")


def _copies(compared: Compared) -> Iterator[TraceStep]:
    for copy in compared.copies.oldest:
        if copy.fingerprint in compared.differing:
            detail = "A later copy says something else; the first one counts, this one for nothing."
        else:
            detail = "A later copy says the same; it counts for nothing."
        yield _step(copy.received_at, "duplicate", detail)
    more = compared.copies.count - len(compared.copies.oldest)
    if more > 0:
        yield _step(None, "duplicate", f"{more} further copies; they count for nothing.")


def _place_of(event: StoredEvent, decision: Decision) -> str:
    return f"It was judged again: change at offset {decision.change_offset} of partition {event.partition} of the log."


def _voided(event: StoredEvent, position: int) -> str:
    before = event.decisions[position - 1] if position else None
    if before is None or before.status == "quarantined":
        return "It was voided; it had counted for nothing. Its id stays taken."
    return "It was voided: what it had added is taken back. Its id stays taken."


def _meters(metered: Metered, decision: Decision) -> Iterator[TraceStep]:
    event = metered.event
    for taken in metered.taken:
        yield _step(decision.judged_at, "counted", _taken(event, taken))
    for left_out in metered.left_out[:MAX_LEFT_OUT_IN_TRACE]:
        yield _left_out(decision, left_out)
    if not metered.taken and not metered.left_out:
        detail = f"No meter counts events of the type {event.type!r}; one made later counts this event too."
        yield _step(decision.judged_at, "unmatched", detail)
    elif metered.status == "unmatched":
        yield _step(decision.judged_at, "unmatched", f"No meter takes anything from it, of the type {event.type!r}.")


def _taken(event: StoredEvent, taken: Taken) -> str:
    value = shown_value(taken)
    rounded = " (rounded to 12 digits after the point)" if taken.quantity.rounded else ""
    return f"The meter {taken.meter.key!r} took {value}{rounded} in the minute {event.occurred_at:%Y-%m-%dT%H:%MZ}."


def shown_value(taken: Taken) -> str:
    """The number that the meter took; of a unique count what it tells apart."""
    return taken.text.removeprefix("=") if taken.text else format_decimal(taken.quantity.value)


def _left_out(decision: Decision, left_out: LeftOut) -> TraceStep:
    detail = f"The meter {left_out.meter.key!r} took nothing: {left_out.reason}."
    return _step(decision.judged_at, "not_taken", detail)


def _quarantined(event: StoredEvent, decision: Decision, meters: Sequence[KnownMeter]) -> str:
    match decision.code:
        case "event.unknown_subject":
            return (
                f"{UNKNOWN_SUBJECT}: no customer has the external_id or the subject {event.subject!r}. It counts for"
                " nothing until one has; create the customer or add the subject, and it is counted by itself."
            )
        case "event.invalid_value":
            return f"{INVALID_VALUE}: {_invalid_value(event, meters)}"
        case code:
            return f"{code}: it counts for nothing."


def _invalid_value(event: StoredEvent, meters: Sequence[KnownMeter]) -> str:
    """Which meter can't read what. It is asked of today's meters: those of its time may have been others."""
    again = "Send it right under a new id, or change the meter and replay it (POST /v1/events/replay)."
    try:
        data = parse_data(event.data)
    except Reject as error:
        return f"{error.detail}. {again}"
    for meter in meters:
        if not meter.archived and matches(meter.entry, data):
            reason = unreadable_reason(meter.entry, data)
            if reason is not None:
                return f"the meter {meter.key!r} can't read it, so it counts for nothing: {reason}. {again}"
    return (
        "a meter could not read its value when it came. Those of today can:"
        " replay it (POST /v1/events/replay) and it counts."
    )


def _billed(taken: Taken, invoice: EventInvoice) -> TraceStep:
    number = "a draft" if invoice.number is None else f"{invoice.number}"
    detail = f"What the meter {taken.meter.key!r} took stands on the invoice {invoice.id} ({number})."
    return _step(invoice.finalized_at, "billed", detail)
