"""What of a customer stands on its invoices, and who pays them: address, tax id, locale, tax rates, the parent."""

from typing import Annotated, Any

import msgspec
from pydantic import Field
from typing_extensions import TypedDict

from infra.postgres import customers, tax_rates
from infra.postgres.pool import PgConnection, Row
from ingestion_api.control.settings import AddressBody, Line, LocaleName
from ingestion_api.control.tax_rates import TaxRates, find_all
from ingestion_api.fields import Body, Reference
from schemas.errors import Reject
from schemas.invoicing import Address, Invoicing


class BillingFields(Body):
    """`invoicing`: whether it gets an invoice of each subscription that it pays for, or one of all that are due at one
    instant; null: as the settings say. `tax_rates` are keys; `locale` is that of documents, the tenant's when it is
    null. Invoices of a customer's subscriptions are its `parent`'s, if it has one. `has_payment_method`: money can be
    collected without asking."""

    parent: Annotated[Reference | None, Field(description="The customer who pays, by id or external_id.")] = None
    has_payment_method: bool | None = None
    invoicing: Annotated[Invoicing, Field(strict=False)] | None = None
    tax_rates: TaxRates | None = None
    tax_id: Line | None = None
    address: AddressBody | None = None
    locale: LocaleName | None = None


class BillingFieldsView(TypedDict):
    parent: str | None
    has_payment_method: bool
    invoicing: Invoicing | None
    tax_rates: list[str]
    tax_id: str | None
    address: dict[str, Any] | None
    locale: str | None


FIELDS = frozenset(BillingFields.model_fields)


def to_view(row: Row, keys: dict[str, str]) -> BillingFieldsView:
    """`keys` of tax rates and parents by their ids, of `keys_of`."""
    return {
        "parent": None if row["parent_id"] is None else keys[row["parent_id"]],
        "has_payment_method": row["has_payment_method"],
        "invoicing": row["invoicing"],
        "tax_rates": [keys[tax_rate_id] for tax_rate_id in row["tax_rate_ids"]],
        "tax_id": row["tax_id"],
        "address": None if row["address"] is None else msgspec.to_builtins(msgspec.convert(row["address"], Address)),
        "locale": row["locale"],
    }


def keys_of(connection: PgConnection, *rows: Row) -> dict[str, str]:
    """The keys of all tax rates and the external_ids of all parents of these customers, by id."""
    rate_ids = sorted({tax_rate_id for row in rows for tax_rate_id in row["tax_rate_ids"]})
    parent_ids = sorted({row["parent_id"] for row in rows if row["parent_id"] is not None})
    rates = tax_rates.load_by_ids(connection, rate_ids) if rate_ids else {}
    parents = customers.load_names(connection, parent_ids) if parent_ids else {}
    return {**{rate_id: rate["key"] for rate_id, rate in rates.items()}, **parents}


def store(connection: PgConnection, body: BillingFields, row: Row) -> Row:
    """Write what of these fields is given for a customer whose row is locked or new; the row after it.

    Raises Reject `tax_rate.not_found`, `customer.not_found` and `customer.invalid_parent`.
    """
    given = body.model_fields_set & FIELDS
    if not given:
        return row
    rates = row["tax_rate_ids"]
    if "tax_rates" in given:
        rates = [rate["id"] for rate in find_all(connection, row["tenant_id"], body.tax_rates or (), "tax_rates")]
    address = row["address"]
    if "address" in given:
        address = None if body.address is None else body.address.model_dump(exclude_none=True)
    if {"parent", "has_payment_method"} & given:
        customers.set_payer(
            connection,
            customer_id=row["id"],
            parent_id=_read_parent(connection, body.parent, row) if "parent" in given else row["parent_id"],
            has_payment_method=bool(body.has_payment_method)
            if "has_payment_method" in given
            else row["has_payment_method"],
        )
    return customers.set_billing(
        connection,
        customer_id=row["id"],
        invoicing=body.invoicing if "invoicing" in given else row["invoicing"],
        tax_rate_ids=rates,
        tax_id=body.tax_id if "tax_id" in given else row["tax_id"],
        address=address,
        locale=body.locale if "locale" in given else row["locale"],
    )


def _read_parent(connection: PgConnection, reference: str | None, row: Row) -> str | None:
    """The id of the parent, locked: it stays one that may have children. Families are one level deep, live by one test
    clock or by none, and pay in one currency. Raises Reject."""
    if reference is None:
        return None
    parent = customers.load_customer(connection, tenant_id=row["tenant_id"], reference=reference, lock=True)
    if parent is None:
        raise Reject.at("/parent", "customer.not_found", f"There is no customer {reference!r}.")
    reasons = {
        "A customer is not its own parent.": parent["id"] == row["id"],
        "The parent is archived.": parent["archived_at"] is not None,
        "The parent has a parent itself; name that one.": parent["parent_id"] is not None,
        "The customer has children itself.": customers.has_children(connection, customer_id=row["id"]),
        "The parent lives by another test clock, or by none.": parent["test_clock_id"] != row["test_clock_id"],
        "The parent pays in another currency.": None not in (parent["currency"], row["currency"])
        and parent["currency"] != row["currency"],
    }
    for reason, holds in reasons.items():
        if holds:
            raise Reject.at("/parent", "customer.invalid_parent", reason)
    return parent["id"]
