-- Coupons, add-ons, and entitlements that follow the phases of a subscription.

-- A coupon gives a discount to the subscriptions that redeem it. `code` is what a customer types; none tells it from
-- another by the case of its letters.
CREATE TABLE coupons (
    id              text PRIMARY KEY,
    tenant_id       text NOT NULL REFERENCES tenants,
    key             text NOT NULL,
    name            text NOT NULL,
    code            text,
    percent         numeric,
    amount          numeric,
    currency        text,
    duration        text NOT NULL CHECK (duration IN ('once', 'repeating', 'forever')),
    periods         integer CHECK (periods >= 1),
    max_redemptions bigint CHECK (max_redemptions >= 1),
    redemptions     bigint NOT NULL DEFAULT 0,
    expires_at      timestamptz,
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    archived_at     timestamptz,
    UNIQUE (tenant_id, key),
    CHECK ((percent IS NULL) <> (amount IS NULL)),
    CHECK ((amount IS NULL) = (currency IS NULL)),
    CHECK ((duration = 'repeating') = (periods IS NOT NULL)),
    CHECK (redemptions BETWEEN 0 AND coalesce(max_redemptions, redemptions))
);
CREATE UNIQUE INDEX coupons_by_code ON coupons (tenant_id, upper(code)) WHERE code IS NOT NULL;
CREATE INDEX coupons_by_tenant ON coupons (tenant_id, id);

-- Who redeemed what: a subscription redeems a coupon once in its life.
CREATE TABLE coupon_redemptions (
    coupon_id       text NOT NULL REFERENCES coupons,
    subscription_id text NOT NULL REFERENCES subscriptions,
    redeemed_at     timestamptz NOT NULL,
    PRIMARY KEY (coupon_id, subscription_id)
);

-- An add-on is what a plan is, bought beside one: prices and entitlements in versions. The keys of the two kinds are
-- apart.
ALTER TABLE plans ADD COLUMN kind text NOT NULL DEFAULT 'plan' CHECK (kind IN ('plan', 'addon'));
ALTER TABLE plans DROP CONSTRAINT plans_tenant_id_key_key;
ALTER TABLE plans ADD CONSTRAINT plans_tenant_id_kind_key_key UNIQUE (tenant_id, kind, key);

-- An entitlement holds from `effective_at` to before `ends_at`; what is used counts from `starts_at` on, when the
-- subscription first entitled to the feature: a change of plan neither forgets usage nor grants a limit anew.
-- `source` is 'plan' or the id of an add-on.
ALTER TABLE entitlements ADD COLUMN effective_at timestamptz;
UPDATE entitlements SET effective_at = starts_at;
ALTER TABLE entitlements ALTER COLUMN effective_at SET NOT NULL;
ALTER TABLE entitlements ADD COLUMN source text NOT NULL DEFAULT 'plan';
ALTER TABLE entitlements DROP CONSTRAINT entitlements_subscription_id_feature_id_key;
CREATE UNIQUE INDEX entitlements_by_subscription ON entitlements (subscription_id, feature_id, source, effective_at);
