"""Tenants' settings of billing, and the parties of an invoice that follow from them."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from infra.postgres.jsonb import jsonb
from infra.postgres.pool import PgConnection
from schemas.invoicing import Address, BillingSettings, Buyer, Parties


def load_settings(connection: PgConnection, tenant_ids: Collection[str]) -> dict[str, BillingSettings]:
    """The settings of each of these tenants; the seller of one that named none has the tenant's name."""
    rows = connection.execute("SELECT id, name, settings FROM tenants WHERE id = ANY(%s)", (list(tenant_ids),))
    return {row["id"]: _read(row["name"], row["settings"]) for row in rows}


def _read(name: str, stored: Mapping[str, Any]) -> BillingSettings:
    settings = msgspec.convert(stored, BillingSettings)
    if settings.seller.name is not None:
        return settings
    return msgspec.structs.replace(settings, seller=msgspec.structs.replace(settings.seller, name=name))


def change_settings(connection: PgConnection, *, tenant_id: str, changes: Mapping[str, Any]) -> BillingSettings:
    """Set what is given, one level deep; a null goes back to the default. The tenant's row is locked until the end."""
    row = connection.execute(
        "UPDATE tenants SET settings = jsonb_strip_nulls(settings || %s) WHERE id = %s RETURNING name, settings",
        (jsonb(changes), tenant_id),
    ).fetchone()
    assert row is not None
    return _read(row["name"], row["settings"])


def load_parties(
    connection: PgConnection, customer_ids: Collection[str], settings: Mapping[str, BillingSettings]
) -> dict[str, Parties]:
    """Who stands on an invoice of each of these customers, as they are now. `settings` by tenant."""
    rows = connection.execute(
        "SELECT id, tenant_id, external_id, name, email, tax_id, address, locale, timezone FROM customers"
        " WHERE id = ANY(%s)",
        (list(customer_ids),),
    )
    parties: dict[str, Parties] = {}
    for row in rows:
        own = settings[row["tenant_id"]]
        buyer = Buyer(
            name=row["name"],
            external_id=row["external_id"],
            email=row["email"],
            tax_id=row["tax_id"],
            address=msgspec.convert(row["address"] or {}, Address),
        )
        parties[row["id"]] = Parties(
            seller=own.seller,
            buyer=buyer,
            locale=row["locale"] or own.locale,
            timezone=row["timezone"],
            footer=own.footer,
        )
    return parties
