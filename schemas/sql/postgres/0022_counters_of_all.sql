-- Counters of what does not add up. Rows that stand already are of sums and counts, and stay as they are.
ALTER TABLE entitlement_counters
    ADD COLUMN events   bigint NOT NULL DEFAULT 0,  -- of an average: how many events `used` is the sum of
    ADD COLUMN rank     numeric[],                  -- of min, max, latest: `used` is the value that ranks highest; NULL: none
    ADD COLUMN is_stale boolean NOT NULL DEFAULT false; -- what it held was taken away: it counts for nothing

-- What unique counts have counted, and by how many events. A row's shard adds 1 to its counter when `refs` becomes
-- positive by its doing, and takes 1 off when it ceases to be: so the sum over the shards is exact.
CREATE TABLE entitlement_values (
    entitlement_no bigint NOT NULL,
    period_start   timestamptz NOT NULL,
    meter_revision integer NOT NULL,
    value          bytea NOT NULL, -- 16 bytes of the SHA-256 of the value's text
    refs           bigint NOT NULL,
    PRIMARY KEY (entitlement_no, period_start, meter_revision, value)
) WITH (fillfactor = 80); -- a value that is used is used again
