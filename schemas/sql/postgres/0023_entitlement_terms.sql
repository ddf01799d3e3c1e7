-- What a check answers of a feature when nothing that knows what is used can be asked.
ALTER TABLE features ADD COLUMN on_unknown text NOT NULL DEFAULT 'closed' CHECK (on_unknown IN ('closed', 'open'));

-- An entitlement that a customer has of its own has no subscription: it has an id, which is its `source` too, and
-- carries what others take from their subscription.
ALTER TABLE entitlements
    ALTER COLUMN subscription_id DROP NOT NULL,
    ADD COLUMN id         text COLLATE "C" UNIQUE,
    ADD COLUMN timezone   text,
    ADD COLUMN metadata   jsonb,
    ADD COLUMN created_at timestamptz,
    ADD CONSTRAINT entitlements_given CHECK (
        CASE WHEN subscription_id IS NULL THEN num_nonnulls(id, timezone, metadata, created_at) = 4
             ELSE num_nonnulls(id, timezone, metadata, created_at) = 0 END);
CREATE INDEX entitlements_by_tenant ON entitlements (tenant_id, id) WHERE id IS NOT NULL;

-- By feature's key, what a subscription's plan entitles to in this phase in place of what the plan says: whole terms.
ALTER TABLE subscription_phases
    ADD COLUMN entitlement_overrides jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN keeps_entitlements boolean NOT NULL DEFAULT false; -- of a pause: features may be used meanwhile
