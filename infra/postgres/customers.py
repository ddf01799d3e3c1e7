"""Customers and their subjects: every name that an event may use for a customer, its external_id among them."""

from collections.abc import Sequence
from datetime import datetime

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection, Row


def insert_customer(
    connection: PgConnection,
    *,
    customer_id: str,
    tenant_id: str,
    external_id: str,
    name: str,
    email: str | None,
    currency: str | None,
    timezone: str,
    metadata: dict[str, str],
    test_clock_id: str | None = None,
    now: datetime,
) -> Row | None:
    """Store a new customer, still without subjects; None when the tenant has this external_id already."""
    return connection.execute(
        "INSERT INTO customers (id, tenant_id, external_id, name, email, currency, timezone, metadata, test_clock_id,"
        " created_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, external_id) DO NOTHING RETURNING *",
        (customer_id, tenant_id, external_id, name, email, currency, timezone, jsonb(metadata), test_clock_id, now),
    ).fetchone()


def load_customer(connection: PgConnection, *, tenant_id: str, reference: str, lock: bool = False) -> Row | None:
    """The customer with this id, or else with this external_id. With `lock` nobody changes it before we commit."""
    query = (
        "SELECT * FROM customers WHERE tenant_id = %(tenant_id)s"
        " AND (id = %(reference)s OR external_id = %(reference)s) ORDER BY id <> %(reference)s LIMIT 1"
    )
    return connection.execute(
        query + " FOR UPDATE" if lock else query, {"tenant_id": tenant_id, "reference": reference}
    ).fetchone()


def lock_customers(connection: PgConnection, *, tenant_id: str, references: Sequence[str]) -> None:
    """Let nobody change those that exist of these, by id or external_id, before we commit. They are locked in the order
    of their ids: two callers never wait for each other crosswise."""
    connection.execute(
        "SELECT id FROM customers WHERE tenant_id = %(tenant_id)s"
        " AND (id = ANY(%(references)s) OR external_id = ANY(%(references)s)) ORDER BY id FOR UPDATE",
        {"tenant_id": tenant_id, "references": list(references)},
    )


def list_customers(
    connection: PgConnection,
    *,
    tenant_id: str,
    external_id: str | None,
    subject: str | None,
    archived: bool,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """The tenant's customers, newest first, each with its `subjects`."""
    return connection.execute(
        "SELECT *, (SELECT array_agg(subject ORDER BY subject) FROM customer_subjects WHERE customer_id = customers.id)"
        " AS subjects FROM customers WHERE tenant_id = %(tenant_id)s"
        " AND (%(archived)s OR archived_at IS NULL)"
        " AND (%(external_id)s::text IS NULL OR external_id = %(external_id)s)"
        " AND (%(subject)s::text IS NULL OR id = (SELECT customer_id FROM customer_subjects"
        "  WHERE tenant_id = %(tenant_id)s AND subject = %(subject)s))"
        " AND (%(before_id)s::text IS NULL OR id < %(before_id)s) ORDER BY id DESC LIMIT %(limit)s",
        {
            "tenant_id": tenant_id,
            "external_id": external_id,
            "subject": subject,
            "archived": archived,
            "before_id": before_id,
            "limit": limit,
        },
    ).fetchall()


def update_customer(
    connection: PgConnection,
    *,
    customer_id: str,
    name: str,
    email: str | None,
    currency: str | None,
    timezone: str,
    metadata: dict[str, str],
) -> Row:
    """Write the whole of what may change; the caller has the row locked."""
    row = connection.execute(
        "UPDATE customers SET name = %s, email = %s, currency = %s, timezone = %s, metadata = %s WHERE id = %s"
        " RETURNING *",
        (name, email, currency, timezone, jsonb(metadata), customer_id),
    ).fetchone()
    assert row is not None
    return row


def set_billing(
    connection: PgConnection,
    *,
    customer_id: str,
    invoicing: str | None,
    tax_rate_ids: Sequence[str],
    tax_id: str | None,
    address: dict[str, str] | None,
    locale: str | None,
) -> Row:
    """Write what invoices the customer gets, and what of it stands on them, for those to come."""
    row = connection.execute(
        "UPDATE customers SET invoicing = %s, tax_rate_ids = %s, tax_id = %s, address = %s, locale = %s WHERE id = %s"
        " RETURNING *",
        (invoicing, list(tax_rate_ids), tax_id, None if address is None else jsonb(address), locale, customer_id),
    ).fetchone()
    assert row is not None
    return row


def fix_currency(connection: PgConnection, *, customer_id: str, currency: str) -> None:
    """Give a customer without a currency that of its first subscription."""
    connection.execute("UPDATE customers SET currency = %s WHERE id = %s AND currency IS NULL", (currency, customer_id))


def archive_customer(connection: PgConnection, *, customer_id: str, now: datetime) -> Row:
    """Put the customer away. One that is away already keeps its first `archived_at`."""
    row = connection.execute(
        "UPDATE customers SET archived_at = coalesce(archived_at, %s) WHERE id = %s RETURNING *", (now, customer_id)
    ).fetchone()
    assert row is not None
    return row


def load_subjects(connection: PgConnection, *, customer_id: str) -> list[str]:
    """All subjects of a customer, in the order of their text."""
    rows = connection.execute(
        "SELECT subject FROM customer_subjects WHERE customer_id = %s ORDER BY subject", (customer_id,)
    )
    return [row["subject"] for row in rows]


def add_subjects(connection: PgConnection, *, tenant_id: str, customer_id: str, subjects: Sequence[str]) -> set[str]:
    """Give the customer these subjects; those that another customer has are returned and not given.

    In sorted order, so that two callers never wait for each other crosswise.
    """
    wanted = sorted(set(subjects))
    connection.execute(
        "INSERT INTO customer_subjects (tenant_id, subject, customer_id)"
        " SELECT %s, subject, %s FROM unnest(%s::text[]) AS wanted (subject) ORDER BY subject ON CONFLICT DO NOTHING",
        (tenant_id, customer_id, wanted),
    )
    rows = connection.execute(
        "SELECT subject FROM customer_subjects WHERE tenant_id = %s AND subject = ANY(%s) AND customer_id <> %s",
        (tenant_id, wanted, customer_id),
    )
    return {row["subject"] for row in rows}


def remove_subjects(connection: PgConnection, *, customer_id: str, subjects: Sequence[str]) -> None:
    """Take these subjects from the customer: events that use them belong to nobody from now on."""
    connection.execute(
        "DELETE FROM customer_subjects WHERE customer_id = %s AND subject = ANY(%s)", (customer_id, list(subjects))
    )


def has_open_subscription(connection: PgConnection, *, customer_id: str) -> bool:
    """Whether a subscription of the customer, or of one that it pays for, still runs or is still to be billed."""
    row = connection.execute(
        "SELECT 1 FROM subscriptions WHERE customer_id IN"
        " (SELECT id FROM customers WHERE id = %(id)s OR parent_id = %(id)s)"
        " AND (status NOT IN ('canceled', 'ended') OR next_bill_at IS NOT NULL) LIMIT 1",
        {"id": customer_id},
    ).fetchone()
    return row is not None


def load_external_ids(connection: PgConnection, *, tenant_id: str, numbers: Sequence[int]) -> dict[int, str]:
    """The external_id of each of the tenant's customers with these numbers."""
    rows = connection.execute(
        "SELECT no, external_id FROM customers WHERE tenant_id = %s AND no = ANY(%s)", (tenant_id, list(numbers))
    )
    return {row["no"]: row["external_id"] for row in rows}


def set_payment_method(connection: PgConnection, *, customer_id: str, method: dict[str, str] | None) -> None:
    """What a customer, whose row is locked, is charged by from now on; None: nothing."""
    connection.execute(
        "UPDATE customers SET payment_method = %s, has_payment_method = %s WHERE id = %s",
        (None if method is None else jsonb(method), method is not None, customer_id),
    )


def set_payer(connection: PgConnection, *, customer_id: str, parent_id: str | None, has_payment_method: bool) -> None:
    """Write who pays for a customer that is locked or new, and whether money can be collected without asking."""
    connection.execute(
        "UPDATE customers SET parent_id = %s, has_payment_method = %s WHERE id = %s",
        (parent_id, has_payment_method, customer_id),
    )


def has_children(connection: PgConnection, *, customer_id: str) -> bool:
    """Whether the customer is somebody's parent."""
    row = connection.execute("SELECT 1 FROM customers WHERE parent_id = %s LIMIT 1", (customer_id,)).fetchone()
    return row is not None


def load_names(connection: PgConnection, customer_ids: Sequence[str]) -> dict[str, str]:
    """The external_id of each of these customers, by id."""
    rows = connection.execute("SELECT id, external_id FROM customers WHERE id = ANY(%s)", (list(customer_ids),))
    return {row["id"]: row["external_id"] for row in rows}
