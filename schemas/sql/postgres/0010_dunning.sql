-- Dunning: what becomes of invoices that are not paid in time, and of their subscriptions meanwhile.

-- `dunning` is the schedule that the invoice took when it became overdue, and how far it is:
-- {schedule, day, attempts, reminders}; null: not overdue, or its tenant had no schedule.
ALTER TABLE invoices
    ADD COLUMN test_clock_id text REFERENCES test_clocks, -- its customer's
    ADD COLUMN dunning_at  timestamptz, -- when an open invoice is looked at next; null: never again
    ADD COLUMN overdue_at  timestamptz, -- when it became overdue; stays when it is paid
    ADD COLUMN blocks_at   timestamptz, -- its subscription's features are refused from then on; null: they are not
    ADD COLUMN dunning     jsonb,
    ADD COLUMN dunning_failure text,    -- why its last step could not be taken and is to be tried again
    ADD CONSTRAINT invoices_dunning CHECK (overdue_at IS NOT NULL OR (blocks_at IS NULL AND dunning IS NULL));

UPDATE invoices i SET test_clock_id = c.test_clock_id FROM customers c
    WHERE c.id = i.customer_id AND c.test_clock_id IS NOT NULL;
UPDATE invoices SET dunning_at = due_at + interval '1 day' WHERE status = 'open' AND due_at IS NOT NULL;

CREATE INDEX invoices_to_dun ON invoices (dunning_at, id)
    WHERE status = 'open' AND dunning_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX invoices_to_dun_by_clock ON invoices (test_clock_id, dunning_at, id)
    WHERE status = 'open' AND dunning_at IS NOT NULL AND test_clock_id IS NOT NULL;
CREATE INDEX invoices_overdue ON invoices (subscription_id) WHERE status = 'open' AND dunning IS NOT NULL;

-- What its overdue invoices that have a schedule make of a subscription: the least `overdue_at` of those that are open,
-- and the least `blocks_at`. Null: it has none, or none that blocks.
ALTER TABLE subscriptions
    ADD COLUMN past_due_since timestamptz,
    ADD COLUMN blocked_at     timestamptz,
    ADD CONSTRAINT subscriptions_blocked CHECK (blocked_at IS NULL OR past_due_since IS NOT NULL);
