-- Bills look for what batches beyond theirs have changed of time that is billed: old parts have only old batches.
ALTER TABLE usage_minutes ADD INDEX IF NOT EXISTS seq_index seq TYPE minmax GRANULARITY 1;
ALTER TABLE usage_values ADD INDEX IF NOT EXISTS seq_index seq TYPE minmax GRANULARITY 1;
