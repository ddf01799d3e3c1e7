"""What Prometheus may read of the usage flow."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("meterline_flow_events", "Events judged.", ["status"])  # counted, unmatched, quarantined, duplicate
POISON = Counter("meterline_flow_poison_messages", "Messages of the log that are no batch of events.")
CHANGES = Counter(
    "meterline_flow_changes",
    "Changes of events.",
    ["outcome"],  # counted, unmatched, quarantined, voided: what events became; unknown: no such event
)
GROUPS_OVER_LIMIT = Counter(
    "meterline_flow_groups_over_limit", "Meters that have passed the limit of distinct groups.", ["meter"]
)
BATCH_SECONDS = Histogram(
    "meterline_flow_batch_seconds",
    "From the poll of a batch to its first commit.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
INSERT_SECONDS = Histogram(
    "meterline_flow_insert_seconds",
    "One round of inserts into ClickHouse, with its commit.",
    buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
UNTOLD_BALANCES = Counter("meterline_flow_untold_balances", "Messages to replicas that the broker did not take.")
LAG_SECONDS = Gauge("meterline_flow_lag_seconds", "Age of what the counters are complete up to.", ["partition"])
PENDING_INTENTS = Gauge("meterline_flow_pending_intents", "Batches with offsets moved and rows not yet stored.")
INBOX_EVENTS = Counter("meterline_flow_inbox_messages", "Messages of the inbox, by what became of them.", ["outcome"])
RELAYED_EVENTS = Counter("meterline_flow_relayed_system_events", "System events the broker has acknowledged.")
REPLAYED_EVENTS = Counter("meterline_flow_replayed_events", "Quarantined events whose subject came, put on the log.")
WEBHOOK_DELIVERIES = Counter("meterline_flow_webhook_deliveries", "System events of which an endpoint is to be told.")
