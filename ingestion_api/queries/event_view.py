"""An event as the API shows it: what came, who it is of, which meters took what, where it is billed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from typing_extensions import TypedDict

from infra.clickhouse.client import Client
from infra.clickhouse.events import StoredEvent
from infra.postgres.customers import load_external_ids
from infra.postgres.event_invoices import EventInvoice, UsagePoint, load_invoices
from infra.postgres.pool import Database
from ingestion_api.auth import Principal
from ingestion_api.queries.event_conflicts import Compared, compare_copies
from ingestion_api.queries.event_meters import KnownMeter, Metered, Taken, load_meters, meter_events
from ingestion_api.queries.event_trace import TraceStep, shown_value, trace

MAX_COPIES_IN_TRACE = 100
MAX_COPIES_IN_LIST = 5


class EventMeter(TypedDict):
    """What a meter took from the event. `rounded`: its value had more than 12 digits after the point."""

    meter: str
    value: str
    rounded: bool
    group: dict[str, str | None]
    window_start: datetime
    invoice: str | None


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


def meter_and_view(
    database: Database,
    client: Client,
    principal: Principal,
    events: Sequence[StoredEvent],
    *,
    copies: int = MAX_COPIES_IN_TRACE,
) -> list[EventView]:
    """Events as the API shows them, in their order; a trace has steps of up to `copies` copies."""
    with database.transaction() as connection:
        meters = load_meters(connection, tenant_id=principal.tenant_id, types={event.type for event in events})
    metered = meter_events(client, events, meters)
    return view_events(database, client, principal, metered, meters, copies=copies)


def view_events(
    database: Database,
    client: Client,
    principal: Principal,
    metered: Sequence[Metered],
    meters: Sequence[KnownMeter],
    *,
    copies: int,
) -> list[EventView]:
    """Metered events as the API shows them; a trace has steps of up to `copies` copies."""
    events = [each.event for each in metered]
    numbers = {decision.customer_no for event in events for decision in event.decisions} - {0}
    points = [_point(each.event, taken) for each in metered for taken in each.taken]
    with database.transaction() as connection:
        customers = load_external_ids(connection, tenant_id=principal.tenant_id, numbers=sorted(numbers))
        invoices = load_invoices(connection, tenant_id=principal.tenant_id, points=points)
    compared = compare_copies(client, tenant_no=principal.tenant_no, events=events, limit=copies)
    return [
        _view(
            each,
            customers,
            compared.get(each.event.identity, Compared()),
            [meter for meter in meters if meter.entry.event_type == each.event.type],
            {
                taken.meter.entry.meter_no: found
                for taken in each.taken
                if (found := invoices.get(_point(each.event, taken))) is not None
            },
        )
        for each in metered
    ]


def _point(event: StoredEvent, taken: Taken) -> UsagePoint:
    counting = event.counting
    assert counting is not None, "meters take only from events that count"
    counted_at = event.received_at if counting is event.decisions[0] else counting.judged_at
    return UsagePoint(counting.customer_no, taken.meter.entry.meter_no, event.occurred_at, counted_at)


def _view(
    metered: Metered,
    customers: Mapping[int, str],
    compared: Compared,
    meters: Sequence[KnownMeter],
    invoices: Mapping[int, EventInvoice],
) -> EventView:
    event = metered.event
    return {
        "object": "event",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.occurred_at,
        "received_at": event.received_at,
        "status": metered.status,
        "code": event.last.code or None,
        "customer": customers.get(event.last.customer_no),
        "data": msgspec.Raw(event.data.encode()),  # pyright: ignore[reportReturnType] - the object's own text
        "copies": compared.copies.count,
        "conflict": compared.conflict,
        "meters": [_view_meter(event, taken, invoices.get(taken.meter.entry.meter_no)) for taken in metered.taken],
        "trace": trace(metered, customers=customers, compared=compared, meters=meters, invoices=invoices),
    }


def _view_meter(event: StoredEvent, taken: Taken, invoice: EventInvoice | None) -> EventMeter:
    names = taken.meter.entry.group_by
    return {
        "meter": taken.meter.key,
        "value": shown_value(taken),
        "rounded": taken.quantity.rounded,
        "group": {name: text[1:] if text else None for name, text in zip(names, taken.groups, strict=True)},
        "window_start": event.occurred_at.replace(second=0, microsecond=0),
        "invoice": None if invoice is None else invoice.id,
    }
