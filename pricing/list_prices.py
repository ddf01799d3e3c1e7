"""What a line had cost by the price of the plan's catalogue, where a subscription has negotiated another."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pricing.charges import Price, parse_plan_price
from pricing.matrix import Matrix
from pricing.metered import needs_each
from pricing.rating import rate
from pricing.usage import Usage
from schemas.money import MAX_SCALE, exactly, round_ratio


@exactly
def list_cost(
    *,
    exact: Decimal,
    quantity: Decimal | None,
    agreed: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    currency: str,
    at: datetime,
) -> Decimal:
    """The cost by `catalogue` of what costs `exact` by the price `agreed` (bodies of plans' prices, as they are `at`).

    A share of a fee has the same share of the fee in the catalogue. `exact` itself where the line does not tell: a
    share of nothing, usage that was priced by its groups, buckets or transactions, and differences to what was billed
    before.
    """
    negotiated, listed = (parse_plan_price(body, currency=currency).in_effect(at) for body in (agreed, catalogue))
    if quantity is None or not all(_is_of_whole(each.price) for each in (negotiated, listed)):
        return exact
    usage = Usage(quantity=quantity)
    by_agreement, by_list = rate(negotiated.price, usage).total, rate(listed.price, usage).total
    if negotiated.meter is not None:
        return by_list if by_agreement == exact else exact
    return round_ratio(by_list * exact, by_agreement, MAX_SCALE) if by_agreement else exact


def _is_of_whole(price: Price) -> bool:
    """Whether a quantity alone says what it costs."""
    return price.bucket is None and not needs_each(price) and not isinstance(price.model, Matrix)
