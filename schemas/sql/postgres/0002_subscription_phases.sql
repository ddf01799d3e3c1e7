-- A subscription is a timeline of phases: the terms in force from an instant on. A change of plan or quantity, an
-- add-on, a pause, a resumption is one more phase; one that starts later than now is scheduled.
CREATE TABLE subscription_phases (
    subscription_id text NOT NULL REFERENCES subscriptions,
    no              integer NOT NULL CHECK (no >= 0), -- of two that start together the later one is in force
    starts_at       timestamptz NOT NULL,
    plan_id         text NOT NULL,
    plan_version    integer NOT NULL,
    quantities      jsonb NOT NULL DEFAULT '{}',
    price_overrides jsonb NOT NULL DEFAULT '{}',
    addons          jsonb NOT NULL DEFAULT '[]', -- [{addon, addon_id, version, quantity}]
    commitment      jsonb,
    is_paused       boolean NOT NULL DEFAULT false, -- no price is in force
    prorate         boolean NOT NULL DEFAULT true,  -- fees are shared out by time at its start
    invoice_now     boolean NOT NULL DEFAULT false, -- its start makes a statement
    is_late         boolean NOT NULL DEFAULT false, -- made when the statement at its start was saved already
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (subscription_id, no),
    FOREIGN KEY (plan_id, plan_version) REFERENCES plan_versions
);

INSERT INTO subscription_phases (subscription_id, no, starts_at, plan_id, plan_version, quantities, price_overrides,
                                 commitment, created_at)
SELECT id, 0, start_at, plan_id, plan_version, quantities, price_overrides, commitment, created_at FROM subscriptions;

ALTER TABLE subscriptions
    ADD COLUMN trial_end_at timestamptz, -- nothing before it is billed; the first statement is due then
    ADD COLUMN trial_end_behavior text NOT NULL DEFAULT 'activate'
        CHECK (trial_end_behavior IN ('activate', 'cancel', 'cancel_without_payment_method')),
    ADD COLUMN billed_seqs jsonb, -- by shard, the last batch that was in the usage of the last statement
    ADD COLUMN invoice_threshold numeric CHECK (invoice_threshold > 0), -- running usage cost that makes an invoice
    ADD CONSTRAINT subscriptions_trial CHECK (trial_end_at > start_at);
CREATE INDEX subscriptions_by_threshold ON subscriptions (id) WHERE invoice_threshold IS NOT NULL
    AND parked_reason IS NULL;

-- Whoever pays: invoices of a child's subscriptions are the parent's.
ALTER TABLE customers
    ADD COLUMN parent_id text REFERENCES customers CHECK (parent_id <> id),
    ADD COLUMN has_payment_method boolean NOT NULL DEFAULT false; -- something can be collected without the customer
CREATE INDEX customers_by_parent ON customers (parent_id) WHERE parent_id IS NOT NULL;

ALTER TABLE invoices DROP CONSTRAINT invoices_kind_check;
ALTER TABLE invoices ADD CONSTRAINT invoices_kind_check
    CHECK (kind IN ('subscription', 'closing', 'one_off', 'threshold'));
