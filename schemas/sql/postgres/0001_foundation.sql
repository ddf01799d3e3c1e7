-- The control plane and the flow's books. Money is bigint minor units; quantities are numeric(38,12).
-- `no` is the compact number of a row that hot paths and ClickHouse carry; `id` is the public one.

CREATE TABLE tenants (
    no         integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    id         text PRIMARY KEY,
    name       text NOT NULL,
    settings   jsonb NOT NULL DEFAULT '{}',
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id            text PRIMARY KEY,
    tenant_id     text NOT NULL REFERENCES tenants,
    name          text NOT NULL,
    role          text NOT NULL CHECK (role IN ('operator', 'admin', 'ingest', 'read', 'check')),
    secret_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, id);

-- People, who sign in with a password; programs use API keys.
CREATE TABLE users (
    id            text PRIMARY KEY,
    tenant_id     text NOT NULL REFERENCES tenants,
    email         text NOT NULL,
    role          text NOT NULL CHECK (role IN ('operator', 'admin', 'read')),
    password_hash text NOT NULL, -- Argon2id, with its own parameters and salt
    created_at    timestamptz NOT NULL,
    UNIQUE (tenant_id, email)
);

-- The first answer of a POST with an Idempotency-Key, written in the transaction of its effect.
CREATE TABLE idempotency_keys (
    tenant_id      text NOT NULL REFERENCES tenants,
    key            text NOT NULL,
    request_sha256 bytea NOT NULL,
    status         integer NOT NULL,
    body           bytea NOT NULL,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE customers (
    no          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id          text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants,
    external_id text NOT NULL,
    name        text NOT NULL,
    email       text,
    currency    text,  -- null until it is set or the first subscription fixes it
    timezone    text NOT NULL,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL,
    archived_at timestamptz,
    UNIQUE (tenant_id, external_id)
);
CREATE INDEX customers_by_tenant ON customers (tenant_id, id);

-- Every name an event may use for a customer: its external_id and its further subjects.
CREATE TABLE customer_subjects (
    tenant_id   text NOT NULL REFERENCES tenants,
    subject     text NOT NULL,
    customer_id text NOT NULL REFERENCES customers,
    PRIMARY KEY (tenant_id, subject)
);
CREATE INDEX customer_subjects_by_customer ON customer_subjects (customer_id);

CREATE TABLE meters (
    no         integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    id         text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    key        text NOT NULL,
    name       text NOT NULL,
    event_type text NOT NULL,
    aggregation text NOT NULL,
    value      text,
    filters    jsonb NOT NULL DEFAULT '[]',
    group_by   text[] NOT NULL DEFAULT '{}',
    revision   integer NOT NULL DEFAULT 1, -- readers use the windows of this revision; the definition above is its own
    is_built   boolean NOT NULL DEFAULT true, -- false while the very first revision is built from the past
    built_until timestamptz, -- until is_built: its usage is complete up to here; null: nothing is known
    groups_over_limit_at timestamptz, -- when its distinct groups first passed the limit; all are counted still
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    archived_at timestamptz,
    UNIQUE (tenant_id, key)
);

-- Every definition that a meter has had. A revision is counted live by batches judged by catalogue_version or a newer
-- one; a build counts what was stored before, and then readers are switched over to it.
CREATE TABLE meter_revisions (
    meter_no    integer NOT NULL REFERENCES meters (no),
    revision    integer NOT NULL CHECK (revision >= 1),
    event_type  text NOT NULL,
    aggregation text NOT NULL,
    value       text,
    filters     jsonb NOT NULL,
    group_by    text[] NOT NULL,
    reason      text NOT NULL CHECK (reason IN ('created', 'changed', 'repair')),
    state       text NOT NULL CHECK (state IN ('waiting', 'counting', 'active', 'superseded', 'retired')),
    catalogue_version bigint NOT NULL,
    counted_events bigint NOT NULL DEFAULT 0, -- of the build, so far
    total_events   bigint,                    -- stored events of the type when the build began to count
    created_at  timestamptz NOT NULL,
    started_at  timestamptz, -- counting began
    ended_at    timestamptz, -- it became active or was superseded
    retired_at  timestamptz, -- readers left it, or it was superseded
    swept_at    timestamptz, -- its windows were removed
    PRIMARY KEY (meter_no, revision)
);
CREATE UNIQUE INDEX meter_revisions_active ON meter_revisions (meter_no) WHERE state = 'active';
CREATE UNIQUE INDEX meter_revisions_building ON meter_revisions (meter_no) WHERE state IN ('waiting', 'counting');
CREATE INDEX meter_revisions_to_sweep ON meter_revisions (retired_at) WHERE retired_at IS NOT NULL AND swept_at IS NULL;

-- What the last proofs of a meter's windows found. `kind`: of what was received lately, or of all.
CREATE TABLE meter_proofs (
    meter_no   integer NOT NULL REFERENCES meters (no),
    revision   integer NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('recent', 'full')),
    proven_at  timestamptz NOT NULL,
    ok         boolean NOT NULL,
    seqs       jsonb NOT NULL,  -- by shard, the last batch that was looked at: the next recent proof begins after it
    events     bigint NOT NULL, -- stored facts that were judged again
    windows    bigint NOT NULL, -- rows of windows that they give
    drifted    bigint NOT NULL, -- rows that are missing, too many or different
    examples   jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (meter_no, kind)
);

CREATE TABLE features (
    no         integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    id         text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    key        text NOT NULL,
    name       text NOT NULL,
    type       text NOT NULL CHECK (type IN ('metered', 'boolean', 'static')),
    meter_id   text REFERENCES meters,
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    UNIQUE (tenant_id, key),
    CHECK ((type = 'metered') = (meter_id IS NOT NULL))
);

CREATE TABLE plans (
    id         text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    key        text NOT NULL,
    name       text NOT NULL,
    currency   text NOT NULL,
    metadata   jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    UNIQUE (tenant_id, key)
);

-- A version is never edited. Prices and entitlements are the bodies that were validated when it was made.
CREATE TABLE plan_versions (
    plan_id      text NOT NULL REFERENCES plans,
    version      integer NOT NULL CHECK (version >= 1),
    prices       jsonb NOT NULL,
    entitlements jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (plan_id, version)
);

CREATE TABLE subscriptions (
    id              text PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    customer_id     text NOT NULL REFERENCES customers,
    plan_id         text NOT NULL,
    plan_version    integer NOT NULL,
    status          text NOT NULL CHECK (status IN
                        ('draft', 'trialing', 'active', 'past_due', 'paused', 'canceled', 'ended')),
    currency        text NOT NULL,
    timezone        text NOT NULL,
    start_at        timestamptz NOT NULL,
    billing_anchor  timestamptz NOT NULL,
    alignment       text NOT NULL CHECK (alignment IN ('anniversary', 'calendar')),
    quantities      jsonb NOT NULL DEFAULT '{}',
    price_overrides jsonb NOT NULL DEFAULT '{}',
    discounts       jsonb NOT NULL DEFAULT '[]',
    commitment      jsonb,
    end_at          timestamptz,
    cancel_at       timestamptz,
    canceled_at     timestamptz,
    cancel_proration boolean NOT NULL DEFAULT false, -- cancel credits the unused part of advance fees
    billed_until    timestamptz,  -- usage before this instant stands on an invoice; null: nothing billed yet
    next_bill_at    timestamptz,  -- the instant that makes the next invoice due; null: nothing is due any more
    usage_due       boolean NOT NULL DEFAULT true, -- the next statement has usage lines: it waits for the watermark
    parked_reason   text,         -- a broken invariant holds this one account; the sweep passes it by
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    FOREIGN KEY (plan_id, plan_version) REFERENCES plan_versions
);
CREATE INDEX subscriptions_by_tenant ON subscriptions (tenant_id, id);
CREATE INDEX subscriptions_by_customer ON subscriptions (customer_id);
CREATE INDEX subscriptions_due ON subscriptions (next_bill_at, id) WHERE next_bill_at IS NOT NULL AND parked_reason IS NULL;

-- What a subscription entitles its customer to: the plan's entitlements, written out at creation.
CREATE TABLE entitlements (
    no              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    subscription_id text NOT NULL REFERENCES subscriptions,
    customer_id     text NOT NULL REFERENCES customers,
    feature_id      text NOT NULL REFERENCES features,
    limit_quantity  numeric,          -- null: unlimited (metered features); 38 digits, 12 after the point
    value           jsonb,            -- boolean and static features
    reset           text,
    enforcement     text,
    rollover_max    numeric,
    billing_period  text NOT NULL,    -- of resets by billing_period; the subscription's anchor begins them
    billing_period_count integer NOT NULL,
    starts_at       timestamptz NOT NULL,
    ends_at         timestamptz,
    UNIQUE (subscription_id, feature_id)
);
CREATE INDEX entitlements_by_customer ON entitlements (customer_id, feature_id);

-- The catalogue that flows read, as a log: its state at version v is, a (kind, tenant, key), the newest body at or
-- below v (null body: gone). An intent names a version, so a redo judges events exactly as the first time.
CREATE TABLE catalogue_head (
    is_only          boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    version          bigint NOT NULL,
    replayed_version bigint NOT NULL DEFAULT 0 -- events quarantined for subjects that came up to here have been replayed
);
INSERT INTO catalogue_head (version) VALUES (0);

CREATE TABLE catalogue_changes (
    kind      text NOT NULL CHECK (kind IN ('subject', 'meter', 'entitlement')),
    tenant_no integer NOT NULL,
    key       text NOT NULL,
    version   bigint NOT NULL,
    body      jsonb,
    PRIMARY KEY (kind, tenant_no, key, version)
);
CREATE INDEX catalogue_changes_by_version ON catalogue_changes (version);

-- Where each partition of the log is. Counters are complete up to counted_until, usage windows up to stored_until.
CREATE TABLE shard_offsets (
    topic         text NOT NULL,
    partition     integer NOT NULL,
    shard         integer NOT NULL,
    next_offset   bigint NOT NULL DEFAULT 0,
    counted_until timestamptz NOT NULL DEFAULT '-infinity',
    stored_until  timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (topic, partition)
);

CREATE TABLE shards (
    shard             integer PRIMARY KEY,
    next_seq          bigint NOT NULL DEFAULT 1,
    catalogue_version bigint NOT NULL DEFAULT 0, -- batches from next_seq on are judged by this version or a newer one
    recent_events      bigint NOT NULL DEFAULT 0, -- judged of late, while a cap on quarantined ones is set
    recent_quarantined bigint NOT NULL DEFAULT 0
);

-- One batch of a shard on its way into ClickHouse. `ranges` is [[partition, first, last], …], inclusive.
CREATE TABLE intents (
    shard             integer NOT NULL,
    seq               bigint NOT NULL,
    ranges            jsonb NOT NULL,
    catalogue_version bigint NOT NULL,
    state             text NOT NULL CHECK (state IN ('pending', 'committed')),
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (shard, seq)
);
CREATE INDEX intents_pending ON intents (shard, seq) WHERE state = 'pending';

-- Messages of the log that are no batch of events, kept whole: they stop nothing and count for nothing.
CREATE TABLE poison_messages (
    topic          text NOT NULL,
    partition      integer NOT NULL,
    message_offset bigint NOT NULL,
    reason         text NOT NULL,
    message        bytea NOT NULL,
    appended_at    timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, message_offset)
);

-- Usage of one entitlement in one period, one row a shard: flows never meet on a row; a check adds the shards up.
CREATE TABLE entitlement_counters (
    entitlement_no bigint NOT NULL,
    period_start   timestamptz NOT NULL,
    shard          integer NOT NULL,
    shards         integer NOT NULL DEFAULT 1, -- how many there were when the row was seeded
    used           numeric(76, 12) NOT NULL, -- room for sums of values of 38 digits
    meter_revision integer NOT NULL DEFAULT 1, -- of the meter that it counts; a row of another counts for nothing
    version        bigint NOT NULL, -- the seq of the intent that wrote it last
    PRIMARY KEY (entitlement_no, period_start, shard)
);

CREATE TABLE invoice_sequences (
    tenant_id   text PRIMARY KEY REFERENCES tenants,
    next_number bigint NOT NULL DEFAULT 1
);

CREATE TABLE invoices (
    id              text PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    customer_id     text NOT NULL REFERENCES customers,
    subscription_id text REFERENCES subscriptions,
    kind            text NOT NULL CHECK (kind IN ('subscription', 'closing', 'one_off')),
    period_start    timestamptz NOT NULL, -- the instant of the statement before; periods of a subscription tile its life
    period_end      timestamptz NOT NULL, -- the instant that made it due; the first invoice's period is empty
    number          text,
    status          text NOT NULL CHECK (status IN ('draft', 'open', 'paid', 'void', 'uncollectible')),
    currency        text NOT NULL,
    subtotal_minor        bigint NOT NULL,
    discount_minor        bigint NOT NULL,
    tax_minor             bigint NOT NULL,
    total_minor           bigint NOT NULL,
    credits_applied_minor bigint NOT NULL,
    amount_due_minor      bigint NOT NULL,
    amount_paid_minor     bigint NOT NULL DEFAULT 0,
    as_of           timestamptz,  -- every event acknowledged before this instant is in its usage
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    finalized_at    timestamptz,
    UNIQUE (subscription_id, period_end, kind),
    UNIQUE (tenant_id, number),
    CHECK ((status = 'draft') = (number IS NULL))
);
CREATE INDEX invoices_by_tenant ON invoices (tenant_id, id);
CREATE INDEX invoices_by_customer ON invoices (customer_id, id);

-- A line stores what it billed and by which price, so that a later run can price the difference.
CREATE TABLE invoice_lines (
    invoice_id   text NOT NULL REFERENCES invoices,
    position     integer NOT NULL,
    key          text NOT NULL,
    description  text NOT NULL,
    quantity     numeric,
    unit_amount  numeric,
    exact        numeric NOT NULL,
    amount_minor bigint NOT NULL,
    period_start timestamptz NOT NULL,
    period_end   timestamptz NOT NULL,
    meter_no     integer,
    price        jsonb NOT NULL,
    explain      jsonb NOT NULL,
    PRIMARY KEY (invoice_id, position)
);

-- Customer credit: an entry for each invoice that gave some (its total was negative, +) or was paid from it (−). Entries
-- are never edited; the balance is their sum, kept from below zero by a lock on the customer's row.
CREATE TABLE customer_credits (
    invoice_id   text PRIMARY KEY REFERENCES invoices,
    tenant_id    text NOT NULL REFERENCES tenants,
    customer_id  text NOT NULL REFERENCES customers,
    currency     text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor <> 0),
    created_at   timestamptz NOT NULL
);
CREATE INDEX customer_credits_by_customer ON customer_credits (customer_id, currency) INCLUDE (amount_minor);

-- Every change of state, written in its own transaction, on its way to the topic of system events.
CREATE TABLE outbox (
    no         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL UNIQUE,
    tenant_id  text NOT NULL,
    type       text NOT NULL,
    object_id  text NOT NULL,
    data       jsonb NOT NULL,
    created_at timestamptz NOT NULL
);
