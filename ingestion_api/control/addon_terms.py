"""The add-ons of a subscription: which, at which version, how many, and that their prices get along with the plan's."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from infra.postgres.plans import load_plan
from infra.postgres.pool import PgConnection
from ingestion_api.control.versions import MAX_VERSION_NUMBER
from ingestion_api.fields import Body, DecimalText, Reference
from ingestion_api.problems import pointer
from schemas.errors import Reject

MAX_ADDONS = 50
MAX_QUANTITY = Decimal(10**12)
ADDONS = "addons"


class AddonBody(Body):
    """An add-on by key or id; of its version, the newest when absent. `quantity` multiplies its prices and limits."""

    addon: Reference
    version: Annotated[int | None, Field(ge=1, le=MAX_VERSION_NUMBER)] = None
    quantity: DecimalText = "1"


def read_addon(value: object) -> object:
    """A bare key is that add-on, once."""
    return {"addon": value} if isinstance(value, str) else value


Addons = Annotated[list[Annotated[AddonBody, BeforeValidator(read_addon)]], Field(max_length=MAX_ADDONS)]


class SubscribedAddon(TypedDict):
    """An add-on that a subscription has."""

    addon: str
    addon_id: str
    version: int
    quantity: str


def read_addons(
    connection: PgConnection,
    bodies: Sequence[AddonBody],
    *,
    tenant_id: str,
    currency: str,
    present: Sequence[Mapping[str, Any]] = (),
) -> list[SubscribedAddon]:
    """The add-ons as they are stored. One that the subscription has at `present` keeps its version unless told.

    Raises Reject with the pointer: `addon.not_found`, `subscription.currency_mismatch`, `subscription.duplicate_addon`,
    `subscription.invalid_quantity`.
    """
    versions = {str(each["addon_id"]): int(each["version"]) for each in present}
    found: list[SubscribedAddon] = []
    seen: set[str] = set()
    for index, body in enumerate(bodies):
        where = pointer(ADDONS, index, "addon")
        row = load_plan(connection, tenant_id=tenant_id, reference=body.addon, version=body.version, kind="addon")
        if row is None:
            raise Reject.at(where, "addon.not_found", f"There is no add-on {body.addon!r} at that version.")
        if row["currency"] != currency:
            raise Reject.at(
                where,
                "subscription.currency_mismatch",
                f"The add-on is in {row['currency']}, the subscription in {currency}.",
            )
        if row["id"] in seen:
            raise Reject.at(where, "subscription.duplicate_addon", "Name an add-on once, and its quantity.")
        seen.add(row["id"])
        if not 0 < Decimal(body.quantity) <= MAX_QUANTITY:
            raise Reject.at(
                pointer(ADDONS, index, "quantity"),
                "subscription.invalid_quantity",
                f"Must be above 0 and at most {MAX_QUANTITY}; leave the add-on out to have none.",
            )
        version = int(body.version or versions.get(row["id"]) or row["version"])
        found.append({"addon": row["key"], "addon_id": row["id"], "version": version, "quantity": body.quantity})
    return found


def check_keys(
    plan_prices: Sequence[Mapping[str, Any]], addons: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
) -> None:
    """No price of an add-on (its key, its prices) has the key of another price of the subscription: quantities,
    overrides and lines go by it. Raises Reject `subscription.duplicate_price`."""
    owners = {price["key"]: "the plan" for price in plan_prices}
    for index, (addon, prices) in enumerate(addons):
        for price in prices:
            key = price["key"]
            if key in owners:
                raise Reject.at(
                    pointer(ADDONS, index, "addon"),
                    "subscription.duplicate_price",
                    f"Both {owners[key]} and the add-on {addon!r} have a price {key!r}.",
                )
            owners[key] = f"the add-on {addon!r}"
