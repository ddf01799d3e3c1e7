-- What a tenant wants to be told of: one subject, and an amount or a percentage of the limit.
CREATE TABLE alerts (
    id              text COLLATE "C" PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    meter_id        text REFERENCES meters,
    feature_id      text REFERENCES features,
    wallet_id       text REFERENCES wallets,
    subscription_id text REFERENCES subscriptions,
    customer_id     text REFERENCES customers, -- null: all of the tenant's
    amount          numeric,
    percent         numeric CHECK (percent > 0),
    period          text CHECK (period IN ('day', 'week', 'month')), -- of a meter's usage
    is_armed        boolean NOT NULL DEFAULT true, -- of a wallet: its balance has been above the threshold again
    metadata        jsonb NOT NULL DEFAULT '{}',
    check_at        timestamptz NOT NULL, -- not looked at before
    judged_at       timestamptz NOT NULL, -- the last look that came to its end; at first when it was made
    created_at      timestamptz NOT NULL,
    archived_at     timestamptz,
    CHECK (num_nonnulls(meter_id, feature_id, wallet_id, subscription_id) = 1),
    CHECK (num_nonnulls(amount, percent) = 1),
    CHECK ((meter_id IS NULL) = (period IS NULL))
);
CREATE INDEX alerts_by_tenant ON alerts (tenant_id, id) WHERE archived_at IS NULL;
CREATE INDEX alerts_to_look_at ON alerts (check_at, id) WHERE archived_at IS NULL;

-- What was told: of one alert and customer once a period. A wallet has no periods: each crossing is one.
CREATE TABLE alert_crossings (
    alert_id     text COLLATE "C" NOT NULL REFERENCES alerts,
    customer_id  text COLLATE "C" NOT NULL REFERENCES customers,
    period_start timestamptz NOT NULL,
    value        numeric NOT NULL,
    triggered_at timestamptz NOT NULL,
    PRIMARY KEY (alert_id, customer_id, period_start)
);
