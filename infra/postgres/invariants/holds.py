"""Rules of what is reserved: the row that limits are weighed by is the sum of the reservations behind it."""

from infra.postgres.invariants.rule import Of, Rule

RULES = (
    Rule(
        name="customer.holds_differ_from_reservations",
        of=Of.CUSTOMER,
        query="SELECT coalesce(h.customer_id, r.customer_id) AS id"
        " FROM (SELECT customer_id, feature_id, reserved FROM entitlement_holds WHERE customer_id = ANY(%(ids)s)) h"
        " FULL JOIN (SELECT customer_id, feature_id, sum(quantity) AS quantity FROM reservations"
        "  WHERE customer_id = ANY(%(ids)s) AND state IN ('held', 'committed') GROUP BY 1, 2) r"
        " ON r.customer_id = h.customer_id AND r.feature_id = h.feature_id"
        " WHERE coalesce(h.reserved, 0) <> coalesce(r.quantity, 0)",
        advice="Compare what is reserved in GET /v1/customers/{id}/entitlements with the customer's reservations.",
    ),
)
