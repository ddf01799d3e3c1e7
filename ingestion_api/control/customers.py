"""Customers: who is metered, entitled and billed. Events name them by external_id or by any of their subjects."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from infra.postgres import catalogue, customers, outbox, test_clocks
from infra.postgres.credits import load_balances
from infra.postgres.pool import PgConnection, Row
from ingestion_api.answers import answer
from ingestion_api.auth import Admin, Principal, Reader
from ingestion_api.clock import Now
from ingestion_api.context import FromContext
from ingestion_api.control import customer_billing
from ingestion_api.control.customer_billing import BillingFields, BillingFieldsView, keys_of
from ingestion_api.control.test_clocks import find_for_customer
from ingestion_api.fields import (
    MAX_EXTERNAL_ID_LENGTH,
    Currency,
    ExternalId,
    Metadata,
    MetadataChange,
    Name,
    Timezone,
    merge_metadata,
)
from ingestion_api.idempotency import AdminCall
from ingestion_api.paging import DEFAULT_LIMIT, Limit, StartingAfter, find_cursor, page
from ingestion_api.problems import pointer
from ingestion_api.routing import house_router
from ingestion_api.views import ListView, ObjectView
from schemas.catalogue import EntryKind, SubjectEntry
from schemas.errors import Conflict, FieldError, NotFound
from schemas.events import MAX_FIELD_LENGTH
from schemas.ids import Prefix, new_id
from schemas.money import format_amount
from schemas.topics import SystemEvent

MAX_SUBJECTS = 1_000  # of one customer
MAX_EMAIL_LENGTH = 320

router = house_router("customers")

Subject = Annotated[str, Field(min_length=1, max_length=MAX_FIELD_LENGTH)]
Subjects = Annotated[list[Subject], Field(max_length=MAX_SUBJECTS)]
Email = Annotated[str, Field(max_length=MAX_EMAIL_LENGTH, pattern=r"^[^@\s]+@[^@\s]+$")]


class CustomerBody(BillingFields):
    external_id: ExternalId
    name: Name | None = None
    email: Email | None = None
    currency: Currency | None = None
    timezone: Timezone = "UTC"
    subjects: Annotated[Subjects, Field(default_factory=list)]
    metadata: Metadata
    test_clock: Annotated[
        str | None, Field(max_length=MAX_EXTERNAL_ID_LENGTH, description="The id of the clock it lives by, for good.")
    ] = None


class CustomerChange(BillingFields):
    """What is absent stays as it is; null empties what may be empty."""

    name: Name | None = None
    email: Email | None = None
    currency: Currency | None = None
    timezone: Timezone | None = None
    subjects: Subjects | None = None
    metadata: MetadataChange


class CustomerView(ObjectView, BillingFieldsView):
    """A customer. `subjects` are its further names in events; its external_id always is one. `credit_balance`, by
    currency, is what its next invoices are paid from first; null when there never was any."""

    object: Literal["customer"]
    external_id: str
    name: str
    email: str | None
    currency: str | None
    timezone: str
    subjects: list[str]
    credit_balance: dict[str, str] | None
    test_clock: str | None
    archived_at: datetime | None


def to_view(row: Row, subjects: Iterable[str], balances: Mapping[str, Decimal], rates: dict[str, str]) -> CustomerView:
    """`subjects` as stored, which includes the external_id; `balances` of credit by currency; keys of tax rates."""
    credit = {currency: format_amount(balance, currency) for currency, balance in sorted(balances.items())}
    return {
        "object": "customer",
        "id": row["id"],
        "external_id": row["external_id"],
        "name": row["name"],
        "email": row["email"],
        "currency": row["currency"],
        "timezone": row["timezone"],
        "subjects": [subject for subject in subjects if subject != row["external_id"]],
        "credit_balance": credit or None,
        **customer_billing.to_view(row, rates),
        "test_clock": row["test_clock_id"],
        "archived_at": row["archived_at"],
        "metadata": row["metadata"],
        "created_at": row["created_at"],
    }


def find(connection: PgConnection, tenant_id: str, reference: str, *, lock: bool = False) -> Row:
    """The tenant's customer by id or external_id. Raises NotFound."""
    row = customers.load_customer(connection, tenant_id=tenant_id, reference=reference, lock=lock)
    if row is None:
        raise NotFound("customer.not_found", f"There is no customer {reference!r}.")
    return row


def check_not_archived(row: Row) -> None:
    """Raises Conflict for a customer that has been put away."""
    if row["archived_at"] is not None:
        raise Conflict("customer.archived", f"Customer {row['external_id']!r} is archived.")


@router.post("/v1/customers", status_code=201, response_model=CustomerView, operation_id="create_customer")
def create_customer(body: CustomerBody, call: AdminCall) -> Response:
    """Make a customer. Events of its subjects count from now on; those quarantined before for want of it stay so: their
    ids are taken, so send them again under new ones."""
    return call.perform(lambda connection: _create(connection, body, call.principal, call.now))


def _create(connection: PgConnection, body: CustomerBody, principal: Principal, now: datetime) -> CustomerView:
    clock_id = None
    if body.test_clock is not None:
        clock_id = find_for_customer(connection, principal.tenant_id, body.test_clock)["id"]
    row = customers.insert_customer(
        connection,
        customer_id=new_id(Prefix.CUSTOMER),
        tenant_id=principal.tenant_id,
        external_id=body.external_id,
        name=body.name or body.external_id,
        email=body.email,
        currency=body.currency,
        timezone=body.timezone,
        metadata=body.metadata,
        test_clock_id=clock_id,
        now=now,
    )
    if row is None:
        raise Conflict("customer.already_exists", f"There is a customer {body.external_id!r} already.")
    subjects = sorted({body.external_id, *body.subjects})
    _take_subjects(connection, principal, row, subjects)
    row = customer_billing.store(connection, body, row)
    view = to_view(row, subjects, {}, keys_of(connection, row))
    _tell(connection, principal, SystemEvent.CUSTOMER_CREATED, view, now)
    _append(connection, principal, row, added=subjects, removed=[])
    return view


@router.get("/v1/customers", response_model=ListView[CustomerView], operation_id="list_customers")
def list_customers(
    principal: Reader,
    context: FromContext,
    limit: Limit = DEFAULT_LIMIT,
    starting_after: StartingAfter = None,
    external_id: Annotated[str | None, Query(max_length=MAX_FIELD_LENGTH)] = None,
    subject: Annotated[str | None, Query(max_length=MAX_FIELD_LENGTH)] = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
) -> Response:
    """The tenant's customers, newest first."""
    with context.database.transaction() as connection:
        before_id = find_cursor(
            starting_after, Prefix.CUSTOMER, lambda reference: find(connection, principal.tenant_id, reference)
        )
        rows = customers.list_customers(
            connection,
            tenant_id=principal.tenant_id,
            external_id=external_id,
            subject=subject,
            archived=archived,
            before_id=before_id,
            limit=limit + 1,
        )
        balances = load_balances(connection, customer_ids=[row["id"] for row in rows])
        rates = keys_of(connection, *rows)
    return answer(page(rows, limit, lambda row: to_view(row, row["subjects"] or (), balances[row["id"]], rates)))


@router.get("/v1/customers/{customer}", response_model=CustomerView, operation_id="get_customer")
def get_customer(customer: str, principal: Reader, context: FromContext) -> Response:
    """One customer, by id or external_id."""
    with context.database.transaction() as connection:
        row = find(connection, principal.tenant_id, customer)
        subjects = customers.load_subjects(connection, customer_id=row["id"])
        balances = _balances_of(connection, row)
        rates = keys_of(connection, row)
    return answer(to_view(row, subjects, balances, rates))


def _balances_of(connection: PgConnection, row: Row) -> Mapping[str, Decimal]:
    return load_balances(connection, customer_ids=[row["id"]])[row["id"]]


@router.patch("/v1/customers/{customer}", response_model=CustomerView, operation_id="update_customer")
def update_customer(customer: str, body: CustomerChange, principal: Admin, context: FromContext, now: Now) -> Response:
    """Change what is given. A new timezone is that of later subscriptions; those that run keep theirs."""
    with context.changing(principal.tenant_id) as connection:
        named = [customer] if body.parent is None else [customer, body.parent]
        customers.lock_customers(connection, tenant_id=principal.tenant_id, references=named)
        row = find(connection, principal.tenant_id, customer, lock=True)
        check_not_archived(row)
        return answer(_change(connection, body, row, principal, now))


def _change(
    connection: PgConnection, body: CustomerChange, row: Row, principal: Principal, now: datetime
) -> CustomerView:
    given = body.model_fields_set
    if "currency" in given and body.currency != row["currency"]:
        _check_currency_is_free(connection, row)
    metadata = merge_metadata(row["metadata"], body.metadata)
    changed = customers.update_customer(
        connection,
        customer_id=row["id"],
        name=body.name or (row["external_id"] if "name" in given else row["name"]),
        email=body.email if "email" in given else row["email"],
        currency=body.currency if "currency" in given else row["currency"],
        timezone=body.timezone or ("UTC" if "timezone" in given else row["timezone"]),
        metadata=metadata,
    )
    changed = customer_billing.store(connection, body, changed)
    present = set(customers.load_subjects(connection, customer_id=row["id"]))
    wanted = {row["external_id"], *(body.subjects or ())} if "subjects" in given else present
    added, removed = sorted(wanted - present), sorted(present - wanted)
    _take_subjects(connection, principal, row, added)
    customers.remove_subjects(connection, customer_id=row["id"], subjects=removed)
    view = to_view(changed, sorted(wanted), _balances_of(connection, row), keys_of(connection, changed))
    _tell(connection, principal, SystemEvent.CUSTOMER_UPDATED, view, now)
    if added or removed:
        _append(connection, principal, row, added=added, removed=removed)
    return view


def _check_currency_is_free(connection: PgConnection, row: Row) -> None:
    if customers.has_open_subscription(connection, customer_id=row["id"]):
        raise Conflict(
            "customer.currency_fixed",
            "The customer has a subscription, or pays for that of another; its currency can't change now.",
        )


@router.post("/v1/customers/{customer}/archive", response_model=CustomerView, operation_id="archive_customer")
def archive_customer(customer: str, call: AdminCall) -> Response:
    """Put a customer away once nothing runs for it, nor for one that it pays for. Its usage, invoices and names stay;
    it leaves the lists."""

    def effect(connection: PgConnection) -> CustomerView:
        row = find(connection, call.tenant_id, customer, lock=True)
        if customers.has_open_subscription(connection, customer_id=row["id"]):
            raise Conflict(
                "customer.has_subscription",
                "A subscription of the customer, or of one that it pays for, still runs or is to be billed; cancel it.",
            )
        archived = customers.archive_customer(connection, customer_id=row["id"], now=call.now)
        subjects = customers.load_subjects(connection, customer_id=row["id"])
        view = to_view(archived, subjects, _balances_of(connection, row), keys_of(connection, row))
        if row["archived_at"] is None:
            _tell(connection, call.principal, SystemEvent.CUSTOMER_ARCHIVED, view, call.now)
        return view

    return call.perform(effect, status=200)


def _take_subjects(connection: PgConnection, principal: Principal, row: Row, subjects: list[str]) -> None:
    """Raises Conflict when another customer has one of them."""
    taken = customers.add_subjects(connection, tenant_id=principal.tenant_id, customer_id=row["id"], subjects=subjects)
    if taken:
        first = min(taken)
        where = pointer("external_id") if first == row["external_id"] else pointer("subjects")
        raise Conflict(
            "customer.subject_taken",
            f"Another customer has the subject {first!r}: an event that names it could be only one's.",
            errors=(FieldError(pointer=where, code="customer.subject_taken", detail=f"{first!r} is taken."),),
        )


def _append(
    connection: PgConnection, principal: Principal, row: Row, *, added: Iterable[str], removed: Iterable[str]
) -> None:
    entry = SubjectEntry(customer_no=row["no"], clock_no=test_clocks.number_of(connection, row["test_clock_id"]))
    changes = [(subject, entry) for subject in added] + [(subject, None) for subject in removed]
    catalogue.append_changes(
        connection,
        [
            catalogue.Change(kind=EntryKind.SUBJECT, tenant_no=principal.tenant_no, key=subject, entry=body)
            for subject, body in changes
        ],
    )


def _tell(
    connection: PgConnection, principal: Principal, event: SystemEvent, view: CustomerView, now: datetime
) -> None:
    outbox.append(connection, tenant_id=principal.tenant_id, event=event, object_id=view["id"], data={**view}, now=now)
