"""What a customer has agreed to from an instant on: plan, quantities, overrides, add-ons, commitment. Read from bodies,
one building on the one before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from infra.postgres import plans
from infra.postgres.pool import PgConnection, Row
from ingestion_api.control.addon_terms import Addons, SubscribedAddon, check_keys, read_addons
from ingestion_api.control.entitlement_overrides import amend_entitlements
from ingestion_api.control.subscription_terms import check_commitment, check_quantities, read_overrides
from ingestion_api.control.versions import MAX_ENTITLEMENTS, MAX_PRICES, MAX_VERSION_NUMBER
from ingestion_api.control.versions import find as find_plan
from ingestion_api.fields import Body, DecimalText, Reference
from schemas.errors import NotFound, Reject

#: The fields of a body that say what is agreed to.
TERMS = ("plan", "plan_version", "quantities", "price_overrides", "entitlement_overrides", "addons", "commitment")


class TermsFields(Body):
    """What is absent stays as it is. `quantities`, `price_overrides` and `entitlement_overrides` (by feature, of what
    the plan says) are merged into what is there, and an override of null is taken away; `addons` are all that there are
    from then on."""

    plan_version: Annotated[int | None, Field(ge=1, le=MAX_VERSION_NUMBER)] = None
    quantities: Annotated[dict[str, DecimalText] | None, Field(max_length=MAX_PRICES)] = None
    price_overrides: Annotated[dict[str, dict[str, Any] | None] | None, Field(max_length=MAX_PRICES)] = None
    entitlement_overrides: Annotated[dict[str, dict[str, Any] | None] | None, Field(max_length=MAX_ENTITLEMENTS)] = None
    addons: Addons | None = None
    commitment: dict[str, Any] | None = None


class TermsBody(TermsFields):
    """The same, with another plan or another version of it."""

    plan: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """`plan` and `addon_plans` are rows of `infra.postgres.plans`, each at its version; the latter in the order of
    `addons`."""

    plan: Row
    quantities: Mapping[str, str]
    price_overrides: Mapping[str, dict[str, Any]]
    entitlement_overrides: Mapping[str, dict[str, Any]]
    addons: Sequence[SubscribedAddon]
    addon_plans: Sequence[Row]
    commitment: dict[str, Any] | None

    @property
    def prices(self) -> list[dict[str, Any]]:
        """The bodies of all prices, before overrides."""
        return [*self.plan["prices"], *(price for addon in self.addon_plans for price in addon["prices"])]


def new_contract(connection: PgConnection, body: TermsFields, *, tenant_id: str, plan: Row) -> Contract:
    """The terms of a new subscription. Raises as `amend` does."""
    empty = Contract(
        plan=plan,
        quantities={},
        price_overrides={},
        entitlement_overrides={},
        addons=(),
        addon_plans=(),
        commitment=None,
    )
    return _amend(connection, empty, body, plan, tenant_id=tenant_id)


def amend(connection: PgConnection, contract: Contract, body: TermsBody, *, tenant_id: str) -> Contract:
    """The contract after a change. With another plan, quantities of prices that it has too are kept; an override is
    kept while the price, or the entitlement, is the very one that it amends.

    Raises NotFound `plan.not_found`, and Reject with the pointer: `subscription.currency_mismatch`,
    `subscription.unknown_price`, `subscription.invalid_*`, `subscription.duplicate_*`,
    `subscription.unknown_entitlement`, `subscription.invalid_entitlement`, `addon.not_found`, `pricing.*`.
    """
    plan = _read_plan(connection, contract.plan, body, tenant_id=tenant_id)
    return _amend(connection, contract, body, plan, tenant_id=tenant_id)


def _amend(connection: PgConnection, contract: Contract, body: TermsFields, plan: Row, *, tenant_id: str) -> Contract:
    currency = contract.plan["currency"]
    addons, addon_plans = contract.addons, contract.addon_plans
    if body.addons is not None:
        addons = read_addons(connection, body.addons, tenant_id=tenant_id, currency=currency, present=contract.addons)
        addon_plans = load_addons(connection, addons, tenant_id=tenant_id)
    check_keys(plan["prices"], [(row["key"], row["prices"]) for row in addon_plans])
    commitment = contract.commitment
    if "commitment" in body.model_fields_set:
        check_commitment(body.commitment)
        commitment = body.commitment
    changed = replace(contract, plan=plan, addons=addons, addon_plans=addon_plans, commitment=commitment)
    prices = changed.prices
    check_quantities(body.quantities or {}, prices)
    fixed = {price["key"] for price in prices if price["type"] == "fixed"}
    kept = {key: quantity for key, quantity in contract.quantities.items() if key in fixed}
    return replace(
        changed,
        quantities={**kept, **(body.quantities or {})},
        price_overrides=_override(connection, contract, prices, body, tenant_id=tenant_id, currency=currency),
        entitlement_overrides=amend_entitlements(
            contract.entitlement_overrides,
            contract.plan["entitlements"],
            body.entitlement_overrides or {},
            plan["entitlements"],
        ),
    )


def _read_plan(connection: PgConnection, present: Row, body: TermsBody, *, tenant_id: str) -> Row:
    if body.plan is None and body.plan_version is None:
        return present
    plan = find_plan(connection, tenant_id, body.plan or present["id"], body.plan_version)
    if plan["currency"] != present["currency"]:
        raise Reject.at(
            "/plan",
            "subscription.currency_mismatch",
            f"The subscription is in {present['currency']}, the plan in {plan['currency']}.",
        )
    return plan


def _override(
    connection: PgConnection,
    former: Contract,
    prices: Sequence[Mapping[str, Any]],
    body: TermsFields,
    *,
    tenant_id: str,
    currency: str,
) -> dict[str, dict[str, Any]]:
    given = body.price_overrides or {}
    before = {price["key"]: price for price in former.prices}
    kept = {
        price["key"]: former.price_overrides[price["key"]]
        for price in prices
        if price["key"] in former.price_overrides and before.get(price["key"]) == price and price["key"] not in given
    }
    added = {key: override for key, override in given.items() if override is not None}
    return {**kept, **read_overrides(connection, added, prices, tenant_id=tenant_id, currency=currency)}


def load_addons(connection: PgConnection, addons: Sequence[Mapping[str, Any]], *, tenant_id: str) -> list[Row]:
    """The add-ons at their versions, in this order."""
    found: list[Row] = []
    for each in addons:
        row = plans.load_plan(
            connection, tenant_id=tenant_id, reference=each["addon_id"], version=each["version"], kind="addon"
        )
        if row is None:
            raise NotFound("addon.not_found", f"There is no add-on {each['addon']!r} at version {each['version']}.")
        found.append(row)
    return found
