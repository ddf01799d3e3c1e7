"""Rules of subscriptions: the time of each price is billed once, and none of it is left out.

Void invoices count: what they were for is not billed again. What usage has changed since it was billed stands on lines
that say so, and threshold invoices bill what the period's own invoice takes off again: neither covers time.
"""

from infra.postgres.invariants.rule import Of, Rule

_ADVICE = (
    "It is parked. Compare its invoices (GET /v1/invoices?subscription={id}) with its phases, give a credit note for"
    " what is billed twice or invoice what is missing, and POST /v1/subscriptions/{id}/unpark."
)

RULES = (
    Rule(
        name="subscription.time_billed_twice",
        of=Of.SUBSCRIPTION,
        # What gives a fee back, or charges it, may come to nothing: that it is there counts. Old lines know no better.
        query="SELECT DISTINCT id FROM (SELECT id, key, sum(step) OVER (PARTITION BY id, key ORDER BY at) AS depth FROM"
        " (SELECT s.subscription_id AS id, l.key, edge.at, sum(edge.step) AS step"
        " FROM invoice_statements s JOIN invoice_lines l ON l.invoice_id = s.invoice_id"
        " AND l.subscription_id = s.subscription_id, LATERAL (SELECT CASE"
        " WHEN l.meter_no IS NOT NULL OR NOT l.is_credit THEN 1 WHEN l.is_credit THEN -1"
        " ELSE sign(l.amount_minor) END AS way) w,"
        " LATERAL (VALUES (l.period_start, w.way), (l.period_end, -w.way)) edge (at, step)"
        " WHERE s.subscription_id = ANY(%(ids)s) AND s.kind IN ('subscription', 'closing')"
        " AND l.period_start < l.period_end AND l.price ? 'model'"
        ' AND NOT l.explain @> \'[{"what": "less what was billed before"}]\''
        " GROUP BY s.subscription_id, l.key, edge.at) steps) depths WHERE depth > 1",
        advice=_ADVICE,
        parks=True,
    ),
    Rule(
        name="subscription.usage_left_out",
        of=Of.SUBSCRIPTION,
        # Between two lines of usage of a price nothing is missing, but where a phase (a pause, another plan) began.
        query="SELECT DISTINCT id FROM (SELECT s.subscription_id AS id, l.period_start, max(l.period_end) OVER"
        " (PARTITION BY s.subscription_id, l.key ORDER BY l.period_start"
        " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered_until"
        " FROM invoice_statements s JOIN invoice_lines l ON l.invoice_id = s.invoice_id"
        " AND l.subscription_id = s.subscription_id"
        " WHERE s.subscription_id = ANY(%(ids)s) AND l.meter_no IS NOT NULL) lines"
        " WHERE covered_until < period_start AND NOT EXISTS (SELECT FROM subscription_phases p"
        " WHERE p.subscription_id = lines.id AND p.starts_at = covered_until)",
        advice=_ADVICE,
        parks=True,
    ),
    Rule(
        name="subscription.past_due_differs_from_invoices",
        of=Of.SUBSCRIPTION,
        query="SELECT s.id FROM subscriptions s LEFT JOIN invoice_statements t ON t.subscription_id = s.id"
        " LEFT JOIN invoices i ON i.id = t.invoice_id AND i.status = 'open' AND i.dunning IS NOT NULL"
        " WHERE s.id = ANY(%(ids)s)"
        " GROUP BY s.id, s.past_due_since, s.blocked_at"
        " HAVING (s.past_due_since, s.blocked_at) IS DISTINCT FROM (min(i.overdue_at), min(i.blocks_at))",
        advice="Compare its status with its open invoices (GET /v1/invoices?subscription={id}&status=open): features"
        " may be refused, or granted, wrongly. Pay, void or give up an invoice of it to let the status be found anew.",
    ),
)
