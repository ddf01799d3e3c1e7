-- Providers that collect by themselves: whom a tenant has connected, what customers pay with, charges and refunds.

-- A tenant's account at a provider. Secrets are stored as they are, like those of webhook endpoints: whoever asks the
-- provider, or checks what it tells, needs them. `id` names the place that the provider sends its events to.
CREATE TABLE payment_providers (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES tenants,
    provider       text NOT NULL CHECK (provider IN ('stripe')),
    secret_key     text NOT NULL,
    webhook_secret text NOT NULL,
    api_base       text NOT NULL, -- of the setting when it was connected; empty: where the provider's library goes
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    UNIQUE (tenant_id, provider)
);

-- {provider, customer, payment_method}: what is charged without asking.
ALTER TABLE customers ADD COLUMN payment_method jsonb;

-- `method` is what is charged, as it was when the payment was requested: one idempotency key, one request.
-- `ask_at`: when the provider is asked next, by the customer's time; null: it is not. `asked_at`: when it was asked
-- first, in real time. `excess_minor`: what came in and was no longer due; it is refunded.
ALTER TABLE payments
    ADD COLUMN method        jsonb,
    ADD COLUMN test_clock_id text REFERENCES test_clocks,
    ADD COLUMN ask_at     timestamptz,
    ADD COLUMN attempts      integer NOT NULL DEFAULT 0,
    ADD COLUMN asked_at      timestamptz,
    ADD COLUMN failed_at     timestamptz,
    ADD COLUMN decline_code  text,
    ADD COLUMN excess_minor  bigint NOT NULL DEFAULT 0 CHECK (excess_minor BETWEEN 0 AND amount_minor),
    ADD CONSTRAINT payments_charge CHECK ((ask_at IS NOT NULL) <= (status = 'pending' AND method IS NOT NULL)),
    ADD CONSTRAINT payments_excess CHECK (excess_minor = 0 OR status = 'succeeded');

CREATE UNIQUE INDEX payments_pending ON payments (invoice_id) WHERE status = 'pending';
CREATE INDEX payments_to_charge ON payments (ask_at, id) WHERE ask_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX payments_to_charge_by_clock ON payments (test_clock_id, ask_at, id)
    WHERE ask_at IS NOT NULL AND test_clock_id IS NOT NULL;

-- Money that goes back by the provider that took it: of a credit note, or because it was no longer due. The columns
-- are those of payments.
CREATE TABLE refunds (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES tenants,
    payment_id     text NOT NULL REFERENCES payments,
    credit_note_id text REFERENCES credit_notes, -- null: of what was paid beyond what was due
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0),
    reference      text,
    status         text NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    failure_code   text,
    test_clock_id  text REFERENCES test_clocks,
    ask_at         timestamptz,
    attempts       integer NOT NULL DEFAULT 0,
    asked_at       timestamptz,
    created_at     timestamptz NOT NULL,
    settled_at     timestamptz,
    CHECK ((ask_at IS NOT NULL) <= (status = 'pending')),
    CHECK ((status = 'pending') = (settled_at IS NULL))
);
CREATE INDEX refunds_by_payment ON refunds (payment_id, id);
CREATE INDEX refunds_by_credit_note ON refunds (credit_note_id) WHERE credit_note_id IS NOT NULL;
CREATE INDEX refunds_due ON refunds (ask_at, id) WHERE ask_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX refunds_due_by_clock ON refunds (test_clock_id, ask_at, id)
    WHERE ask_at IS NOT NULL AND test_clock_id IS NOT NULL;
