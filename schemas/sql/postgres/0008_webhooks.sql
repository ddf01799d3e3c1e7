-- Webhooks: whom to tell of system events, what was told, and each attempt at it.

-- `events` are types, prefixes such as `invoice.*`, or `*`. Secrets are stored as they are: whoever signs needs them.
-- `old_secret` signs along until `old_secret_until`. `failing_since`: of the first failure after the last success.
CREATE TABLE webhook_endpoints (
    id               text PRIMARY KEY,
    tenant_id        text NOT NULL REFERENCES tenants,
    url              text NOT NULL,
    description      text NOT NULL,
    events           text[] NOT NULL,
    secret           text NOT NULL,
    old_secret       text,
    old_secret_until timestamptz,
    disabled_at      timestamptz,
    disabled_reason  text CHECK (disabled_reason IN ('requested', 'gone', 'failing')),
    failing_since    timestamptz,
    metadata         jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL,
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
    CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);
CREATE INDEX webhook_endpoints_by_tenant ON webhook_endpoints (tenant_id, id);

-- A system event that somebody is told of, as the very text that is signed and sent each time.
CREATE TABLE webhook_messages (
    id          text PRIMARY KEY, -- of the system event
    tenant_id   text NOT NULL,
    type        text NOT NULL,
    body        text NOT NULL,
    received_at timestamptz NOT NULL
);
CREATE INDEX webhook_messages_by_age ON webhook_messages (received_at);

-- `attempts` counts all; `tries`, those of the running schedule, which begins anew when somebody asks to resend.
CREATE TABLE webhook_deliveries (
    id              text PRIMARY KEY,
    tenant_id       text NOT NULL,
    endpoint_id     text NOT NULL REFERENCES webhook_endpoints ON DELETE CASCADE,
    message_id      text NOT NULL REFERENCES webhook_messages ON DELETE CASCADE,
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'succeeded', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    tries           integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    created_at      timestamptz NOT NULL,
    UNIQUE (message_id, endpoint_id), -- an event told again adds nothing
    CHECK ((status = 'pending') = (next_attempt_at IS NOT NULL))
);
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_attempt_at, id) WHERE status = 'pending';

CREATE TABLE webhook_attempts (
    delivery_id   text NOT NULL REFERENCES webhook_deliveries ON DELETE CASCADE,
    no            integer NOT NULL,
    attempted_at  timestamptz NOT NULL,
    latency_ms    integer NOT NULL,
    status_code   integer, -- null: no answer came
    error         text,
    response_body text NOT NULL,
    PRIMARY KEY (delivery_id, no)
);
