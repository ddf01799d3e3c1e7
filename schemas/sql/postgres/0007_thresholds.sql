-- When the running usage of a subscription with a threshold is looked at next.
ALTER TABLE subscriptions ADD COLUMN threshold_check_at timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00+00';
DROP INDEX subscriptions_by_threshold;
CREATE INDEX subscriptions_by_threshold ON subscriptions (threshold_check_at, id)
    WHERE invoice_threshold IS NOT NULL AND parked_reason IS NULL AND next_bill_at IS NOT NULL;
