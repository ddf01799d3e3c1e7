"""What of a customer stands on its invoices: address, tax id, locale, and the tax rates that apply to it."""

from typing import Any

import msgspec
from typing_extensions import TypedDict

from infra.postgres import customers, tax_rates
from infra.postgres.pool import PgConnection, Row
from ingestion_api.control.settings import AddressBody, Line, LocaleName
from ingestion_api.control.tax_rates import TaxRates, find_all
from ingestion_api.fields import Body
from schemas.invoicing import Address


class BillingFields(Body):
    """`tax_rates` are keys; `locale` is that of documents, the tenant's when it is null."""

    tax_rates: TaxRates | None = None
    tax_id: Line | None = None
    address: AddressBody | None = None
    locale: LocaleName | None = None


class BillingFieldsView(TypedDict):
    tax_rates: list[str]
    tax_id: str | None
    address: dict[str, Any] | None
    locale: str | None


FIELDS = frozenset(BillingFields.model_fields)


def to_view(row: Row, keys: dict[str, str]) -> BillingFieldsView:
    """`keys` of tax rates by their ids, of `keys_of`."""
    return {
        "tax_rates": [keys[tax_rate_id] for tax_rate_id in row["tax_rate_ids"]],
        "tax_id": row["tax_id"],
        "address": None if row["address"] is None else msgspec.to_builtins(msgspec.convert(row["address"], Address)),
        "locale": row["locale"],
    }


def keys_of(connection: PgConnection, *rows: Row) -> dict[str, str]:
    """The keys of all tax rates of these customers, by id."""
    ids = sorted({tax_rate_id for row in rows for tax_rate_id in row["tax_rate_ids"]})
    if not ids:
        return {}
    return {tax_rate_id: row["key"] for tax_rate_id, row in tax_rates.load_by_ids(connection, ids).items()}


def store(connection: PgConnection, body: BillingFields, row: Row) -> Row:
    """Write what of these fields is given for a customer whose row is locked or new; the row after it.

    Raises Reject `tax_rate.not_found`.
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
    return customers.set_billing(
        connection,
        customer_id=row["id"],
        tax_rate_ids=rates,
        tax_id=body.tax_id if "tax_id" in given else row["tax_id"],
        address=address,
        locale=body.locale if "locale" in given else row["locale"],
    )
