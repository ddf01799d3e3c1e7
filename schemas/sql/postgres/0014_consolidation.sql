-- Invoices of several subscriptions, and usage that comes after a subscription's last statement.

-- Which invoice a statement stands on. The key is the guard: one statement of a subscription, instant and kind, once.
CREATE TABLE invoice_statements (
    subscription_id text NOT NULL REFERENCES subscriptions,
    period_end      timestamptz NOT NULL, -- the instant that made it due
    kind            text NOT NULL CHECK (kind IN ('subscription', 'closing', 'threshold', 'adjustment')),
    invoice_id      text NOT NULL REFERENCES invoices,
    PRIMARY KEY (subscription_id, period_end, kind)
);
INSERT INTO invoice_statements (subscription_id, period_end, kind, invoice_id)
SELECT subscription_id, period_end, kind, id FROM invoices WHERE subscription_id IS NOT NULL;
CREATE INDEX invoice_statements_by_invoice ON invoice_statements (invoice_id);
ALTER TABLE invoices DROP CONSTRAINT invoices_subscription_id_period_end_kind_key;
DROP INDEX invoices_overdue; -- found by their statements

-- An invoice of several subscriptions has none of its own; then its lines and its discounts name theirs.
ALTER TABLE invoice_lines ADD COLUMN subscription_id text; -- null: of no subscription
ALTER TABLE invoice_lines DISABLE TRIGGER invoice_lines_stay_final;
UPDATE invoice_lines l SET subscription_id = i.subscription_id FROM invoices i
    WHERE i.id = l.invoice_id AND i.subscription_id IS NOT NULL;
ALTER TABLE invoice_lines ENABLE TRIGGER invoice_lines_stay_final;

ALTER TABLE invoices DROP CONSTRAINT invoices_kind_check;
ALTER TABLE invoices ADD CONSTRAINT invoices_kind_check
    CHECK (kind IN ('subscription', 'closing', 'one_off', 'threshold', 'top_up', 'adjustment'));

-- Whether a payer gets one invoice of all that is due at one instant. Null: as the tenant's settings say.
ALTER TABLE customers ADD COLUMN invoicing text CHECK (invoicing IN ('per_subscription', 'consolidated'));

-- When a subscription that has had its last statement is looked at next for usage that came late; null: it is not.
ALTER TABLE subscriptions ADD COLUMN late_check_at timestamptz;
UPDATE subscriptions SET late_check_at = billed_until + interval '1 day'
    WHERE status IN ('canceled', 'ended') AND next_bill_at IS NULL AND billed_seqs IS NOT NULL;
CREATE INDEX subscriptions_late_checks ON subscriptions (late_check_at, id)
    WHERE late_check_at IS NOT NULL AND parked_reason IS NULL AND test_clock_id IS NULL;
CREATE INDEX subscriptions_late_checks_by_clock ON subscriptions (test_clock_id, late_check_at, id)
    WHERE late_check_at IS NOT NULL AND parked_reason IS NULL AND test_clock_id IS NOT NULL;
