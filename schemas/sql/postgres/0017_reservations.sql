-- What is held of a customer's feature by all its reservations together. Whoever changes the state of a reservation
-- locks this row first, so that a limit is weighed by one at a time. Rows stay: the version must not begin anew.
-- No foreign keys: they would lock the customer for every reservation, and customers and features are never deleted.
CREATE TABLE entitlement_holds (
    customer_id text COLLATE "C" NOT NULL,
    feature_id  text COLLATE "C" NOT NULL,
    tenant_id   text NOT NULL,
    reserved    numeric(76, 12) NOT NULL DEFAULT 0 CHECK (reserved >= 0), -- of all that are held or committed
    version     bigint NOT NULL DEFAULT 0,                               -- counts the changes
    PRIMARY KEY (customer_id, feature_id)
) WITH (fillfactor = 50); -- the same few rows are written again and again

CREATE TABLE reservations (
    id               text COLLATE "C" PRIMARY KEY,
    tenant_id        text NOT NULL,
    customer_id      text COLLATE "C" NOT NULL,
    feature_id       text COLLATE "C" NOT NULL,
    quantity         numeric(50, 12) NOT NULL CHECK (quantity > 0),
    -- `held` until it expires, `committed` until the counters have all that came before the commit; the others hold nothing
    state            text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'committed', 'settled', 'released', 'expired')),
    expires_at       timestamptz NOT NULL,
    committed_at     timestamptz,
    ended_at         timestamptz,         -- when it held no more
    commit_source    text,                -- the event that a commit sends
    commit_event_id  text,
    settled_source   text,                -- the event that was counted in its place
    settled_event_id text,
    metadata         jsonb NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL,
    CHECK ((state IN ('held', 'committed')) = (ended_at IS NULL)),
    CHECK (state <> 'committed' OR committed_at IS NOT NULL)
);
CREATE INDEX reservations_held ON reservations (customer_id, feature_id, expires_at) INCLUDE (quantity)
    WHERE state = 'held';
CREATE INDEX reservations_committed ON reservations (customer_id, feature_id, committed_at) INCLUDE (quantity)
    WHERE state = 'committed';
