"""Test clocks: customers whose time stands still until it is moved on, and then runs as fast as the work can be done.

A clock's customers are billed, granted and reminded by what it shows and by nothing else. An advance is done by the
workers; the answer to the POST says that it has begun.
"""

from datetime import datetime, timedelta
from typing import Literal

from starlette.responses import Response

from infra.postgres import catalogue, outbox, test_clocks
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Reader
from ingestion_api.context import FromContext
from ingestion_api.fields import Body, Instant, Metadata, Name
from ingestion_api.idempotency import AdminCall, Call
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, check_cursor, page
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.catalogue import ClockEntry, EntryKind
from schemas.errors import Conflict, NotFound, Reject
from schemas.ids import Prefix, new_id
from schemas.instants import format_instant
from schemas.topics import SystemEvent

#: The longest way of one advance.
MAX_ADVANCE = timedelta(days=3_660)
#: Who wants more customers by clocks makes more clocks: an advance is done in one line, for all customers of the clock.
MAX_CUSTOMERS = 1_000

router = house_router("test_clocks")


class TestClockBody(Body):
    """`now`: what the clock shows, until it is advanced."""

    now: Instant
    name: Name | None = None
    metadata: Metadata


class AdvanceBody(Body):
    """`to`: what the clock shows in the end; not before what it shows now."""

    to: Instant


class TestClockView(ObjectView):
    """A test clock. While `advancing`, `now` moves on through what is due, to `advance_to`."""

    object: Literal["test_clock"]
    name: str
    now: datetime
    status: Literal["ready", "advancing"]
    advance_to: datetime | None


def to_view(row: Row) -> TestClockView:
    return {
        "object": "test_clock",
        "id": row["id"],
        "name": row["name"],
        "now": row["now"],
        "status": row["status"],
        "advance_to": row["advance_to"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, clock_id: str, *, lock: bool = False) -> Row:
    """The tenant's clock. Raises NotFound."""
    row = test_clocks.load_clock(connection, tenant_id=tenant_id, clock_id=clock_id, lock=lock)
    if row is None:
        raise NotFound("test_clock.not_found", f"There is no test clock {clock_id!r}.")
    return row


def find_for_customer(connection: PgConnection, tenant_id: str, clock_id: str) -> Row:
    """The clock that a new customer names. Raises Reject when there is none, Conflict when it has MAX_CUSTOMERS."""
    row = test_clocks.load_clock(connection, tenant_id=tenant_id, clock_id=clock_id, lock=True)
    if row is None:
        raise Reject.at("/test_clock", "test_clock.not_found", f"There is no test clock {clock_id!r}.")
    if test_clocks.count_customers(connection, clock_id=clock_id) >= MAX_CUSTOMERS:
        raise Conflict(
            "test_clock.too_many_customers", f"A test clock has at most {MAX_CUSTOMERS} customers; make another one."
        )
    return row


@router.post("/v1/test_clocks", status_code=201, response_model=TestClockView, operation_id="create_test_clock")
def create_test_clock(body: TestClockBody, call: AdminCall, context: FromContext) -> Response:
    """Make a test clock. Customers name it as `test_clock` when they are made."""

    def effect(connection: PgConnection) -> TestClockView:
        clock_id = new_id(Prefix.TEST_CLOCK)
        row = test_clocks.insert_clock(
            connection,
            clock_id=clock_id,
            tenant_id=call.tenant_id,
            name=body.name or clock_id,
            shows=body.now,
            metadata=body.metadata,
            now=call.now,
        )
        view = to_view(row)
        _tell(connection, call, SystemEvent.TEST_CLOCK_CREATED, view)
        _append(connection, call, row, ClockEntry(now=body.now))
        return view

    answered = call.perform(effect)
    context.keys.forget_tenant(call.tenant_id)  # keys carry whether the tenant has clocks
    return answered


@router.get("/v1/test_clocks", response_model=ListView[TestClockView], operation_id="list_test_clocks")
def list_test_clocks(
    principal: Reader, context: FromContext, limit: Limit = DEFAULT_LIMIT, starting_after: StartingAfter = None
) -> Response:
    """The tenant's test clocks, newest first."""
    before_id = check_cursor(starting_after, Prefix.TEST_CLOCK)
    with context.database.transaction() as connection:
        rows = test_clocks.list_clocks(connection, tenant_id=principal.tenant_id, before_id=before_id, limit=limit + 1)
    return answer(page(rows, limit, to_view))


@router.get("/v1/test_clocks/{test_clock}", response_model=TestClockView, operation_id="get_test_clock")
def get_test_clock(test_clock: str, principal: Reader, context: FromContext) -> Response:
    """One test clock. Read it until it is `ready` again to see an advance through."""
    with context.database.transaction() as connection:
        return answer(to_view(find(connection, principal.tenant_id, test_clock)))


@router.post("/v1/test_clocks/{test_clock}/advance", response_model=TestClockView, operation_id="advance_test_clock")
def advance_test_clock(test_clock: str, body: AdvanceBody, call: AdminCall) -> Response:
    """Move a clock on, never back. Everything that is due up to `to` is done for its customers in the order of time;
    then the clock shows `to` and is `ready`. Events that were ahead of it and no longer are count from now on."""

    def effect(connection: PgConnection) -> TestClockView:
        row = find(connection, call.tenant_id, test_clock, lock=True)
        _check_advance(row, body.to)
        version = _append(connection, call, row, ClockEntry(now=body.to, moved_at=call.now, former=row["now"]))
        moved = test_clocks.begin_advance(
            connection, clock_id=row["id"], to=body.to, catalogue_version=version, now=call.now
        )
        view = to_view(moved)
        _tell(connection, call, SystemEvent.TEST_CLOCK_ADVANCING, view)
        return view

    return call.perform(effect, status=200)


def _check_advance(row: Row, to: datetime) -> None:
    if row["status"] == "advancing":
        raise Conflict(
            "test_clock.advancing",
            f"The clock advances to {format_instant(row['advance_to'])}; wait until it is ready.",
        )
    if to < row["now"]:
        raise Conflict("test_clock.backwards", f"The clock shows {format_instant(row['now'])} and never goes back.")
    if to - row["now"] > MAX_ADVANCE:
        raise Reject.at("/to", "test_clock.too_far", f"An advance goes at most {MAX_ADVANCE.days} days; go in steps.")


def _append(connection: PgConnection, call: Call, row: Row, entry: ClockEntry) -> int:
    """Tell flows what the clock shows: at once the end of an advance, so that usage is complete before bills are made.
    The version of the catalogue that says so."""
    change = catalogue.Change(kind=EntryKind.CLOCK, tenant_no=call.principal.tenant_no, key=str(row["no"]), entry=entry)
    return catalogue.append_changes(connection, [change])


def _tell(connection: PgConnection, call: Call, event: SystemEvent, view: TestClockView) -> None:
    outbox.append(connection, tenant_id=call.tenant_id, event=event, object_id=view["id"], data={**view}, now=call.now)
