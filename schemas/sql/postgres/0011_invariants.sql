-- What must hold of money, checked by a schedule: see infra/postgres/invariants.

-- What is broken now. A row goes when a later check finds that the rule holds again.
CREATE TABLE invariant_breaches (
    rule      text NOT NULL,
    object_id text NOT NULL, -- an invoice, a wallet, a subscription or a tenant
    tenant_id text NOT NULL REFERENCES tenants,
    found_at  timestamptz NOT NULL,
    PRIMARY KEY (rule, object_id)
);

-- When all rules were last looked at: of what has changed lately, and of everything. `begun_at` is when that began.
CREATE TABLE invariant_checks (
    kind     text PRIMARY KEY CHECK (kind IN ('recent', 'full')),
    begun_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL
);
