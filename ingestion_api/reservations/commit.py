"""Commit of a reservation: its usage comes, or came. An event with it is sent, and settles it when it is counted.

Publishing lies between two transactions. A process that dies there leaves the reservation held for a while: the event,
if it reached the log, settles it all the same, and whoever asks again sends the same event, which counts once.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from infra.crash_points import crash_point
from infra.intake.columns import Columns, identify
from infra.intake.decode import Form, decode
from infra.postgres.customers import load_subjects
from infra.postgres.pool import PgConnection, Row
from infra.postgres.reservations import lock_reservation, mark_committed, record_commit, release
from ingestion_api.auth import Principal
from schemas.errors import Conflict, NotFound, Reject
from schemas.events import DEFAULT_SOURCE
from schemas.instants import to_micros
from schemas.reservations import EXTENSION, ReservationState

#: A commit under way is held so long at least: longer than the broker may take to acknowledge.
HELD_FOR_COMMIT = timedelta(seconds=30)

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The event of a commit, decoded, with the reservation in its extension."""

    source: str
    id: str
    subject: str
    columns: Columns


def read_event(text: bytes, *, reservation_id: str, principal: Principal, now: datetime) -> Event:
    """An event as POST /v1/events takes it. Raises Reject."""
    try:
        fields = _fields.decode(text)
    except msgspec.ValidationError:
        raise Reject.at("/event", "event.invalid_field", "An event is a JSON object.") from None
    named = fields.get(EXTENSION)
    if named is not None and bytes(named) not in (b"null", msgspec.json.encode(reservation_id)):
        raise Reject.at(f"/event/{EXTENSION}", "reservation.other_reservation", "The event names another reservation.")
    fields[EXTENSION] = msgspec.Raw(msgspec.json.encode(reservation_id))
    received_micros = to_micros(now)
    decoded = decode(msgspec.json.encode(fields), Form.JSON, received_micros, any_time=principal.has_clocks)
    if decoded.events is None:
        raise Reject.at("/event", decoded.rejections[0].code, decoded.rejections[0].detail)
    identify(decoded.events, principal.tenant_no)
    return Event(
        source=decoded.events.sources.distinct[0] or DEFAULT_SOURCE,
        id=decoded.events.ids.items()[0].decode(),
        subject=decoded.events.subjects.items()[0].decode(),
        columns=decoded.events,
    )


def find_locked(connection: PgConnection, tenant_id: str, reservation_id: str, *, now: datetime) -> Row:
    """The reservation, its hold locked; one that has expired by now is so. Raises NotFound."""
    row = lock_reservation(connection, tenant_id=tenant_id, reservation_id=reservation_id)
    if row is None:
        raise NotFound("reservation.not_found", f"There is no reservation {reservation_id!r}.")
    if row["state"] == ReservationState.HELD and row["expires_at"] <= now:
        row["state"] = ReservationState.EXPIRED
    return row


def commit_without_event(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Let it be held until everything acknowledged before `now` is counted. Raises Conflict when it holds no more, and
    where a commit with an event was begun: that may still reach the log after `now`."""
    match ReservationState(row["state"]):
        case ReservationState.HELD if row["commit_event_id"] is not None:
            detail = "A commit of it with an event has begun, which may come. Commit it again with that event."
            raise Conflict("reservation.already_committed", detail)
        case ReservationState.HELD:
            mark_committed(connection, reservation_id=row["id"], now=now)
        case ReservationState.COMMITTED | ReservationState.SETTLED:
            return
        case ReservationState.EXPIRED | ReservationState.RELEASED:
            raise _holds_no_more(row)


def begin_commit(connection: PgConnection, row: Row, event: Event, *, now: datetime) -> bool:
    """Note which event is sent. False: it was sent, or has come by itself, and nothing is left to do.

    Raises Reject when the event is not this customer's, Conflict when another one was taken for it, or nothing is held.
    """
    if event.subject not in load_subjects(connection, customer_id=row["customer_id"]):
        detail = f"{event.subject!r} is no subject of the customer {row['customer']!r}, whose reservation this is."
        raise Reject.at("/event/subject", "reservation.other_customer", detail)
    name = (event.source, event.id)
    noted = (row["commit_source"], row["commit_event_id"])
    state = ReservationState(row["state"])
    if state in (ReservationState.EXPIRED, ReservationState.RELEASED):
        raise _holds_no_more(row)
    if (row["settled_source"], row["settled_event_id"]) == name:
        return False
    if noted == name:
        if state is ReservationState.HELD:
            _note(connection, row, event, now)
        return state is not ReservationState.COMMITTED
    if state is not ReservationState.HELD or noted != (None, None):
        detail = "It was committed otherwise already. If this event is further usage, send it to /v1/events."
        raise Conflict("reservation.already_committed", detail)
    _note(connection, row, event, now)
    return True


def _note(connection: PgConnection, row: Row, event: Event, now: datetime) -> None:
    record_commit(
        connection,
        reservation_id=row["id"],
        source=event.source,
        event_id=event.id,
        held_until=now + HELD_FOR_COMMIT,
    )
    crash_point("commit.begun")


def end_commit(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """The broker has the event since before `now`."""
    crash_point("commit.published")
    if row["state"] == ReservationState.HELD:
        mark_committed(connection, reservation_id=row["id"], now=now)


def release_held(connection: PgConnection, row: Row, *, now: datetime) -> None:
    """Give it back. One that has expired, or was released, stays so. Raises Conflict after a commit, and after one that
    was begun: nobody knows whether its event has reached the log, where it would be used beside what others got."""
    match ReservationState(row["state"]):
        case ReservationState.HELD if row["commit_event_id"] is not None:
            raise Conflict("reservation.committed", "A commit of it has begun, its event may come. Commit it again.")
        case ReservationState.HELD:
            release(connection, reservation=row, now=now)
        case ReservationState.EXPIRED | ReservationState.RELEASED:
            return
        case ReservationState.COMMITTED:
            raise Conflict("reservation.committed", "It has been committed: its usage comes. Void the event instead.")
        case ReservationState.SETTLED:
            raise Conflict("reservation.settled", "Its usage is counted. Void the event instead.")


def _holds_no_more(row: Row) -> Conflict:
    if row["state"] == ReservationState.RELEASED:
        return Conflict("reservation.released", "It has been released. Send what was used to /v1/events.")
    return Conflict("reservation.expired", "It has expired. Send what was used to /v1/events.")
