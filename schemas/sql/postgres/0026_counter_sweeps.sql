-- How far a shard has come on its walk over the numbers of entitlements, on which it removes counters and values that
-- nobody will ask for any more. 0: it begins.
ALTER TABLE shards ADD COLUMN swept_no bigint NOT NULL DEFAULT 0;
