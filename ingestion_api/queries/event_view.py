"""An event as the API shows it: what came, who it is of, which meters took what, where it is billed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
from typing_extensions import TypedDict

from infra.clickhouse.client import Client
from infra.clickhouse.events import (
    NO_COPIES,
    Copies,
    Copy,
    StoredEvent,
    WindowKey,
    count_copies,
    list_copies,
    stored_windows,
)
from infra.postgres.customers import load_external_ids
from infra.postgres.event_invoices import UsagePoint, load_invoices
from infra.postgres.meters import load_meters_of_types
from infra.postgres.pool import Database
from ingestion_api.auth import Principal
from ingestion_api.control.meters import to_entry
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import to_micros
from schemas.matching import Quantity, event_groups, event_quantity, matches, parse_data
from schemas.money import format_decimal

MAX_COPIES_IN_TRACE = 100
COUNTED = "counted"


class EventMeter(TypedDict):
    """What a meter took from the event. `rounded`: its value had more than 12 digits after the point."""

    meter: str
    value: str
    rounded: bool
    group: dict[str, str | None]
    window_start: datetime
    invoice: str | None


class TraceStep(TypedDict):
    """One step of an event's way. `at` is null where only the order is known."""

    at: datetime | None
    step: str
    detail: str


class EventView(TypedDict):
    """An event and what became of it. `id` is the sender's; `copies` counts later copies, which count for nothing;
    `conflict`: one of them says something else than the first."""

    object: Literal["event"]
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    received_at: datetime
    status: str
    code: str | None
    customer: str | None
    data: dict[str, Any]
    copies: int
    conflict: bool
    meters: list[EventMeter]
    trace: list[TraceStep]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a meter took from an event, and the window that proves it."""

    key: str
    meter: MeterEntry
    quantity: Quantity
    groups: tuple[str, ...]
    window: WindowKey


def view_events(
    database: Database, client: Client, principal: Principal, events: Sequence[StoredEvent]
) -> list[EventView]:
    """The events with everything but the copies' own steps."""
    tenant_no = principal.tenant_no
    with database.transaction() as connection:
        externals = load_external_ids(
            connection, tenant_id=principal.tenant_id, numbers=sorted({event.customer_no for event in events} - {0})
        )
        counted_types = sorted({event.type for event in events if event.status == COUNTED})
        rows = load_meters_of_types(connection, tenant_id=principal.tenant_id, types=counted_types)
    meters = [(row["key"], to_entry(row)) for row in rows]
    candidates = [_candidates(event, meters) for event in events]
    proven = stored_windows(client, (taken.window for of_event in candidates for taken in of_event))
    taken = [[each for each in of_event if each.window in proven] for of_event in candidates]
    points = [_point(event, each) for event, of_event in zip(events, taken, strict=True) for each in of_event]
    with database.transaction() as connection:
        invoices = load_invoices(connection, tenant_id=principal.tenant_id, points=points)
    copies = count_copies(client, tenant_no=tenant_no, events=events)
    return [
        _view(event, externals.get(event.customer_no), copies.get(event.identity, NO_COPIES), [
            _view_meter(event, each, invoices.get(_point(event, each))) for each in of_event
        ])
        for event, of_event in zip(events, taken, strict=True)
    ]  # fmt: skip


def view_event(database: Database, client: Client, principal: Principal, event: StoredEvent) -> EventView:
    """One event, with the steps of its copies."""
    (view,) = view_events(database, client, principal, [event])
    copies = list_copies(client, tenant_no=principal.tenant_no, event=event, limit=MAX_COPIES_IN_TRACE)
    received, *further = view["trace"]
    view["trace"] = [received, *(_copy_step(copy) for copy in copies), *further]
    return view


def _candidates(event: StoredEvent, meters: Sequence[tuple[str, MeterEntry]]) -> list[_Taken]:
    """What today's meters would take from a counted event."""
    if event.status != COUNTED:
        return []
    data = parse_data(event.data)
    minute_seconds = to_micros(event.occurred_at) // 60_000_000 * 60
    found: list[_Taken] = []
    for key, meter in meters:
        if meter.event_type != event.type or not matches(meter, data):
            continue
        try:
            quantity = event_quantity(meter, data)
            groups = () if quantity is None else event_groups(meter, data)
        except Reject:  # a meter made after the event, which it would have quarantined
            continue
        if quantity is not None:
            window = WindowKey(
                meter.meter_no, meter.revision, event.customer_no, minute_seconds, groups, event.shard, event.seq
            )
            found.append(_Taken(key, meter, quantity, groups, window))
    return found


def _point(event: StoredEvent, taken: _Taken) -> UsagePoint:
    return UsagePoint(event.customer_no, taken.meter.meter_no, event.occurred_at, event.received_at)


def _view_meter(event: StoredEvent, taken: _Taken, invoice: str | None) -> EventMeter:
    return {
        "meter": taken.key,
        "value": format_decimal(taken.quantity.value),
        "rounded": taken.quantity.rounded,
        "group": {
            name: text[1:] if text else None for name, text in zip(taken.meter.group_by, taken.groups, strict=True)
        },
        "window_start": event.occurred_at.replace(second=0, microsecond=0),
        "invoice": invoice,
    }


def _view(event: StoredEvent, customer: str | None, copies: Copies, meters: list[EventMeter]) -> EventView:
    return {
        "object": "event",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.occurred_at,
        "received_at": event.received_at,
        "status": event.status,
        "code": event.code or None,
        "customer": customer,
        "data": msgspec.Raw(event.data.encode()),  # pyright: ignore[reportReturnType] - the object's own text
        "copies": copies.count,
        "conflict": copies.conflict,
        "meters": meters,
        "trace": list(_steps(event, customer, copies, meters)),
    }


def _steps(event: StoredEvent, customer: str | None, copies: Copies, meters: list[EventMeter]) -> list[TraceStep]:
    place = f"partition {event.partition}, offset {event.offset}, place {event.index}"
    steps: list[TraceStep] = [
        {"at": event.received_at, "step": "received", "detail": f"The broker has it: {place} of the log."}
    ]
    if customer is not None:
        steps.append(_step("customer", f"The subject {event.subject!r} is the customer {customer!r}."))
    if event.status == "quarantined":
        steps.append(_step("quarantined", f"It counts for nothing: {event.code}."))
    if event.status == "unmatched":
        steps.append(_step("unmatched", f"No meter took anything from an event of the type {event.type!r}."))
    for meter in meters:
        window = f"{meter['window_start']:%Y-%m-%dT%H:%MZ}"
        steps.append(_step("counted", f"The meter {meter['meter']!r} counted {meter['value']} in the minute {window}."))
        if meter["invoice"] is not None:
            steps.append(_step("billed", f"It stands on the invoice {meter['invoice']}."))
    if copies.conflict:
        steps.append(_step("conflict", "A later copy says something else; the first one counts."))
    return steps


def _step(step: str, detail: str) -> TraceStep:
    return {"at": None, "step": step, "detail": detail}


def _copy_step(copy: Copy) -> TraceStep:
    what = "the same" if copy.same else "something else"
    return {"at": copy.received_at, "step": "duplicate", "detail": f"A later copy says {what}; it counts for nothing."}
