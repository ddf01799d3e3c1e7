-- Test clocks: customers whose time stands still until somebody moves it on.

-- `now` moves through every instant at which something of its customers is due, up to `advance_to`. While `advancing`,
-- flows judge by `advance_to` already (the version of the catalogue that says so is `catalogue_version`), and
-- `replayed_at` is the real instant from which on all that was sent before the advance is on the log as it counts.
CREATE TABLE test_clocks (
    no         integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    id         text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    name       text NOT NULL,
    now        timestamptz NOT NULL,
    status     text NOT NULL CHECK (status IN ('ready', 'advancing')),
    advance_to timestamptz,
    advance_requested_at timestamptz, -- of the last advance, by the real clock
    catalogue_version    bigint NOT NULL DEFAULT 0,
    replayed_at          timestamptz,
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    CHECK ((status = 'advancing') = (advance_to IS NOT NULL)),
    CHECK (advance_to >= now)
);
CREATE INDEX test_clocks_by_tenant ON test_clocks (tenant_id, id);
CREATE INDEX test_clocks_advancing ON test_clocks (id) WHERE status = 'advancing';

-- A customer's clock is named when the customer is made and never changes.
ALTER TABLE customers ADD COLUMN test_clock_id text REFERENCES test_clocks;
CREATE INDEX customers_by_test_clock ON customers (test_clock_id, id) WHERE test_clock_id IS NOT NULL;

-- The same of the customer, so that what is due by a clock and what is due by real time are found apart.
ALTER TABLE subscriptions ADD COLUMN test_clock_id text REFERENCES test_clocks;
DROP INDEX subscriptions_due;
CREATE INDEX subscriptions_due ON subscriptions (next_bill_at, id)
    WHERE next_bill_at IS NOT NULL AND parked_reason IS NULL AND test_clock_id IS NULL;
CREATE INDEX subscriptions_due_by_clock ON subscriptions (test_clock_id, next_bill_at, id)
    WHERE next_bill_at IS NOT NULL AND parked_reason IS NULL AND test_clock_id IS NOT NULL;

ALTER TABLE catalogue_changes DROP CONSTRAINT catalogue_changes_kind_check;
ALTER TABLE catalogue_changes ADD CONSTRAINT catalogue_changes_kind_check
    CHECK (kind IN ('subject', 'meter', 'entitlement', 'clock'));
