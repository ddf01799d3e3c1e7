"""`POST /v1/entitlements/reserve`, and what becomes of a reservation."""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from infra.metrics import EVENTS_RECEIVED
from infra.postgres.holds import HoldKey
from infra.postgres.pool import PgConnection, Row
from infra.postgres.reservations import load_reservation
from ingestion_api import clock
from ingestion_api.answers import answer
from ingestion_api.auth import CheckerOrReader, Scope, check_scope
from ingestion_api.clock import Now
from ingestion_api.context import Context, FromContext
from ingestion_api.fields import Body, DecimalText, Metadata, Reference
from ingestion_api.idempotency import REPLAYED, Call, CheckCall
from ingestion_api.ingest.publish import Publisher
from ingestion_api.problems import CONTENT_TYPE
from ingestion_api.reservations.batches import ReserveBatches
from ingestion_api.reservations.commit import (
    begin_commit,
    commit_without_event,
    end_commit,
    find_locked,
    read_event,
    release_held,
)
from ingestion_api.reservations.reserve import Again, Answer, Asked, Outcome
from ingestion_api.reservations.tell import HoldTeller
from ingestion_api.reservations.views import ReservationView, ReservedView, reservation_view
from ingestion_api.routing import house_router
from schemas.errors import MeterlineError, NotFound, Retry
from schemas.reservations import DEFAULT_TTL_SECONDS, MAX_TTL_SECONDS, MIN_TTL_SECONDS

#: How long a request waits: for its turn, and where usage is being counted for the first time.
MAX_WAIT_SECONDS = 10
AGAIN_SECONDS = 5
PAUSE_SECONDS = 0.05

router = house_router("entitlements")


def check_positive(text: str) -> str:
    if Decimal(text) <= 0:
        raise ValueError("must be more than 0")
    return text


class ReserveBody(Body):
    """Hold `quantity` for `ttl_seconds`, unless it is committed or released before."""

    customer: Reference
    feature: Reference
    quantity: Annotated[DecimalText, AfterValidator(check_positive)]
    ttl_seconds: Annotated[int, Field(ge=MIN_TTL_SECONDS, le=MAX_TTL_SECONDS)] = DEFAULT_TTL_SECONDS
    metadata: Metadata


class CommitBody(Body):
    """With `event`, one as POST /v1/events takes it, that is sent and settles the reservation when it is counted.
    Without, the usage comes, or came, by ordinary events: it is held until all that was acknowledged before is
    counted."""

    event: dict[str, Any] | None = None


async def batches_of(request: Request) -> ReserveBatches:
    return request.app.state.reserve_batches


async def event_text_of(request: Request) -> bytes | None:
    """The event of a commit as it was sent, digit for digit."""
    body = await request.body()
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw]) if body.lstrip()[:1] == b"{" else {}
    text = bytes(fields.get("event", b"null"))
    return None if text == b"null" else text


async def teller_of(request: Request) -> HoldTeller:
    return request.app.state.hold_teller


async def publisher_of(request: Request) -> Publisher | None:
    """None in a process that publishes no events."""
    return request.app.state.publisher


@router.post(
    "/v1/entitlements/reserve", status_code=201, response_model=ReservedView, operation_id="reserve_entitlement"
)
async def reserve_entitlement(
    body: ReserveBody, call: CheckCall, batches: Annotated[ReserveBatches, Depends(batches_of)]
) -> Response:
    """Take of a limit before the usage is there, so that a hard limit holds however many ask at once: 409
    `entitlement.limit_exceeded` when less than that is left. A soft limit gives it and says `soft_limit_exceeded`."""
    asked = Asked(
        customer=body.customer,
        feature=body.feature,
        quantity=Decimal(body.quantity),
        ttl_seconds=body.ttl_seconds,
        metadata=body.metadata,
        now=call.now,
        key=call.key,
        request_sha256=call.request_sha256,
        path=call.path,
        request_id=call.request_id,
    )
    given = await decide(batches, call.tenant_id, asked)
    media_type = "application/json" if given.status < 400 else CONTENT_TYPE
    return Response(given.body, given.status, {REPLAYED: "true"} if given.replayed else None, media_type)


async def decide(batches: ReserveBatches, tenant_id: str, asked: Asked) -> Answer:
    """The answer of the transaction in which it was this request's turn. Raises the refusal, and Retry when that takes
    too long; then it may be decided all the same, and expires."""
    started, loop = time.monotonic(), asyncio.get_running_loop()
    while True:
        decided = batches.submit(tenant_id, asked)
        end = loop.call_later(MAX_WAIT_SECONDS, _give_up, decided)  # `asyncio.timeout` costs several times as much
        try:
            outcome = await decided
        finally:
            end.cancel()
        if isinstance(outcome, Again) and time.monotonic() < started + AGAIN_SECONDS:
            await asyncio.sleep(PAUSE_SECONDS)
        elif isinstance(outcome, MeterlineError):
            raise outcome
        else:
            return outcome


def _give_up(decided: asyncio.Future[Outcome]) -> None:
    if not decided.done():
        decided.set_exception(Retry("entitlement.overloaded", "Too many reservations wait to be decided; try again."))


@router.get("/v1/reservations/{reservation}", response_model=ReservationView, operation_id="get_reservation")
def get_reservation(reservation: str, principal: CheckerOrReader, context: FromContext, now: Now) -> Response:
    """A reservation as it is now; for eight days from its creation, and as long as it holds."""
    with context.database.transaction() as connection:
        row = load_reservation(connection, tenant_id=principal.tenant_id, reservation_id=reservation)
    if row is None:
        raise NotFound("reservation.not_found", f"There is no reservation {reservation!r}.")
    return answer(reservation_view(row, now=now))


@router.post("/v1/reservations/{reservation}/commit", response_model=ReservationView, operation_id="commit_reservation")
def commit_reservation(
    reservation: str,
    body: CommitBody,
    call: CheckCall,
    context: FromContext,
    event_text: Annotated[bytes | None, Depends(event_text_of)],
    publisher: Annotated[Publisher | None, Depends(publisher_of)],
    teller: Annotated[HoldTeller, Depends(teller_of)],
) -> Response:
    """Say that what was reserved is used. An `event` needs a key that may send events, too. Committing again is
    harmless, in whatever order the commit and the event come."""
    if body.event is None or event_text is None:
        return _act(reservation, call, commit_without_event, teller)
    check_scope(call.principal, Scope.INGEST)

    def effect() -> tuple[int, ReservationView]:
        row = _commit_with_event(reservation, event_text, call, context, publisher)
        _tell(teller, row)
        return 200, reservation_view(row, now=call.now)

    return call.act(effect)


def _commit_with_event(
    reservation: str, event_text: bytes, call: Call, context: Context, publisher: Publisher | None
) -> Row:
    event = read_event(event_text, reservation_id=reservation, principal=call.principal, now=call.now)
    with context.database.transaction() as connection:
        row = find_locked(connection, call.tenant_id, reservation, now=call.now)
        if not begin_commit(connection, row, event, now=call.now):
            return row
    if publisher is None:
        raise Retry("broker.unavailable", "Events can't be sent here now; try again.")
    publisher.publish_from_thread(event.columns, call.principal.tenant_no, len(event_text))
    EVENTS_RECEIVED.labels("accepted").inc()
    acknowledged_at = clock.now()  # and no earlier: what is said to be counted up to here has the event
    with context.database.transaction() as connection:
        end_commit(connection, find_locked(connection, call.tenant_id, reservation, now=call.now), now=acknowledged_at)
        return find_locked(connection, call.tenant_id, reservation, now=call.now)


@router.post(
    "/v1/reservations/{reservation}/release", response_model=ReservationView, operation_id="release_reservation"
)
def release_reservation(
    reservation: str, call: CheckCall, teller: Annotated[HoldTeller, Depends(teller_of)]
) -> Response:
    """Give back what was reserved and is not used. 409 after a commit."""
    return _act(reservation, call, release_held, teller)


def _act(reservation: str, call: Call, effect: Callable[..., None], teller: HoldTeller) -> Response:
    """Change a locked reservation, tell of it, and answer with what it is then."""
    changed: list[Row] = []

    def change(connection: PgConnection) -> ReservationView:
        effect(connection, find_locked(connection, call.tenant_id, reservation, now=call.now), now=call.now)
        changed.append(find_locked(connection, call.tenant_id, reservation, now=call.now))
        return reservation_view(changed[0], now=call.now)

    answered = call.perform(change, status=200)
    for row in changed:
        _tell(teller, row)
    return answered


def _tell(teller: HoldTeller, row: Row) -> None:
    until = max(row["expires_at"], row["committed_at"] or row["expires_at"])
    teller.tell({HoldKey(row["customer_id"], row["feature_id"]): until})
