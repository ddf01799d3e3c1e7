-- Raw events and usage windows. Rows of a redone intent are the same rows again: the keys below make them collapse
-- (read with FINAL, or grouped by the key). Partitions follow the time of receipt, which a sender can't choose.

-- What was decided about events, one row a decision, never edited. The first row of an event is its first copy as it was
-- judged; a replay or a void adds a row of its own, made by its own batch. What counts is the sum of all rows by
-- `effect`, so the windows of any batch follow from the rows of that batch alone.

CREATE TABLE IF NOT EXISTS events (
    tenant_no       UInt32,
    hash            FixedString(16),
    kafka_partition UInt16,
    kafka_offset    Int64,
    kafka_index     UInt32,
    change_offset   Int64 DEFAULT -1, -- as it came; else the offset, in its partition, of the message that changed it
    shard           UInt16,
    seq             UInt64,
    received_at     DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    judged_at       DateTime64(6, 'UTC') DEFAULT received_at,
    occurred_at     DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    untimed         Bool,   -- it came without a time and took that of its receipt
    source          LowCardinality(String),
    id              String,
    type            LowCardinality(String),
    subject         String,
    data            String,
    extensions      String,  -- JSON object of CloudEvents extensions; empty: none
    customer_no     UInt64,  -- 0: unknown subject
    status          Enum8('counted' = 1, 'unmatched' = 2, 'quarantined' = 3, 'voided' = 4),
    code            LowCardinality(String),
    -- What counts of the event by this row: 1, 0 (quarantined) or -1 (takes back what counted).
    effect          Int8 DEFAULT status IN ('counted', 'unmatched'),
    INDEX hash_index hash TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX received_index received_at TYPE minmax GRANULARITY 1, -- for the facts of a day of receipt
    INDEX customer_index customer_no TYPE minmax GRANULARITY 1,
    INDEX time_index occurred_at TYPE minmax GRANULARITY 1,   -- for lists, the newest first
    INDEX status_index status TYPE minmax GRANULARITY 1       -- for the few that are quarantined
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received_at)
-- The place in the log too: a copy from after the dedup window is counted again, so it is a row of its own.
ORDER BY (tenant_no, type, customer_no, toStartOfHour(occurred_at), hash, kafka_partition, kafka_offset, kafka_index,
          change_offset)
SETTINGS non_replicated_deduplication_window = 1000;

-- Where the first copies of every identity stand in the log: one, and one more for each that came after the dedup window.
-- Looked up by single hashes, hence the fine index.
CREATE TABLE IF NOT EXISTS event_identities (
    hash            FixedString(16),
    kafka_partition UInt16,
    kafka_offset    Int64,
    kafka_index     UInt32,
    received_at     DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (hash, kafka_partition, kafka_offset, kafka_index)
SETTINGS non_replicated_deduplication_window = 1000, index_granularity = 512;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_identities_from_events TO event_identities AS
SELECT hash, kafka_partition, kafka_offset, kafka_index, received_at FROM events WHERE change_offset = -1;

-- The few events that were replayed or voided: what became of them, beside what they were at first.
CREATE TABLE IF NOT EXISTS event_changes (
    tenant_no       UInt32,
    hash            FixedString(16),
    kafka_partition UInt16,
    kafka_offset    Int64,
    kafka_index     UInt32,
    change_offset   Int64,
    shard           UInt16,
    seq             UInt64,
    judged_at       DateTime64(6, 'UTC'),
    occurred_at     DateTime64(6, 'UTC'),
    customer_no     UInt64,
    status          Enum8('counted' = 1, 'unmatched' = 2, 'quarantined' = 3, 'voided' = 4),
    code            LowCardinality(String),
    effect          Int8
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_no, hash, kafka_partition, kafka_offset, kafka_index, change_offset)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_changes_from_events TO event_changes AS
SELECT tenant_no, hash, kafka_partition, kafka_offset, kafka_index, change_offset, shard, seq, judged_at, occurred_at,
       customer_no, status, code, effect
FROM events WHERE change_offset >= 0;

-- From which sources a tenant sends: an event that is asked for without its source is looked for under each.
CREATE TABLE IF NOT EXISTS event_sources (
    tenant_no UInt32,
    source    String
)
ENGINE = ReplacingMergeTree
ORDER BY (tenant_no, source)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS event_sources_from_events TO event_sources AS
SELECT DISTINCT tenant_no, source FROM events WHERE change_offset = -1;

-- Later copies of an identity, kept whole: they count for nothing and explain everything.
CREATE TABLE IF NOT EXISTS event_copies (
    tenant_no       UInt32,
    hash            FixedString(16),
    kafka_partition UInt16,
    kafka_offset    Int64,
    kafka_index     UInt32,
    shard           UInt16,
    seq             UInt64,
    received_at     DateTime64(6, 'UTC'),
    occurred_at     DateTime64(6, 'UTC'),
    untimed         Bool,
    source          LowCardinality(String),
    id              String,
    type            LowCardinality(String),
    subject         String,
    data            String,
    extensions      String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (tenant_no, hash, kafka_partition, kafka_offset, kafka_index)
SETTINGS non_replicated_deduplication_window = 1000;

-- Additive minutes of event time, of counts, sums and averages: one row a (meter revision, customer, group, minute) and
-- intent.
CREATE TABLE IF NOT EXISTS usage_minutes (
    meter_no     UInt32,
    revision     UInt32,
    customer_no  UInt64,
    minute       DateTime64(0, 'UTC'),
    group_values Array(String),  -- in the meter's group_by order; '=' before a value, '' for a missing property
    shard        UInt16,
    seq          UInt64,
    event_count  Int64,          -- by effect: an event that was taken back counts -1
    total        Decimal(76, 12) -- sum of the values by effect; 0 for count meters
)
ENGINE = ReplacingMergeTree
ORDER BY (meter_no, revision, customer_no, minute, group_values, shard, seq)
SETTINGS non_replicated_deduplication_window = 1000;

-- What meters that don't add up took, event by event: min, max, latest, unique_count, weighted_sum. A row with effect -1
-- takes back the row with effect 1 of the same place in the log.
CREATE TABLE IF NOT EXISTS usage_values (
    meter_no        UInt32,
    revision        UInt32,
    customer_no     UInt64,
    occurred_at     DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    group_values    Array(String),  -- as in usage_minutes
    received_at     DateTime64(6, 'UTC') CODEC(Delta, LZ4),
    kafka_partition UInt16,
    kafka_offset    Int64,
    kafka_index     UInt32,
    effect          Int8,
    shard           UInt16,
    seq             UInt64,
    value           Decimal(76, 12), -- 0 for unique_count
    text            String           -- of unique_count, in the form of a group value; empty for the others
)
ENGINE = ReplacingMergeTree
ORDER BY (meter_no, revision, customer_no, occurred_at, kafka_partition, kafka_offset, kafka_index, effect)
SETTINGS non_replicated_deduplication_window = 1000;
