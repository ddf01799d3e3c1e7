"""Every setting, in one place: `METERLINE_…` in the environment, or a `.env` file, with the defaults written here.

An empty address means "the embedded stack has it": `meterline dev` starts the server and fills the address in for
its children. A given address is used as it is; the code that talks to it is the same.
"""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read once at a process's entry point and handed down; nothing below the entry point reads the environment."""

    model_config = SettingsConfigDict(env_prefix="METERLINE_", env_file=".env", extra="ignore")

    # Stores and brokers
    postgres_dsn: str = ""
    clickhouse_url: str = ""  # http://user:password@host:port/database
    kafka_bootstrap: str = ""  # host:port[,host:port]
    temporal_address: str = ""  # host:port
    temporal_namespace: str = "default"

    # Topics
    events_topic: str = "usage.events"
    events_partitions: int = 4  # fixed once the topic exists: dedup is local to a partition
    events_retention_hours: int = 168
    replication_factor: int = 1  # 3 on a cluster
    balances_topic: str = "entitlement.balances"
    system_topic: str = "system.events"
    inbox_topic: str = "usage.inbox"  # CloudEvents that others put on Kafka themselves; empty: none

    # API service
    api_host: str = "127.0.0.1"
    api_port: int = 8080
    root_key: str = ""  # operator key of the tenant `default`; all roles
    ingest_bytes_in_flight: int = 64 * 1024 * 1024
    ingest_ack_timeout_seconds: int = 10
    ingest_linger_ms: int = 5
    ingest_bearable_lag_seconds: float = 5  # answers wait while the flow works and is further behind; 0: never
    api_key_cache_seconds: int = 10
    api_store_timeout_seconds: int = 8  # the longest that a request waits for a statement of either store
    check_store_timeout_seconds: int = 2  # a query of a check; ClickHouse is left one second later, if it hangs
    replica_max_entitlements: int = 300_000  # kept in memory, 1 to 2 KB each; if there are more, PostgreSQL is asked
    event_change_wait_seconds: int = 5  # how long a void waits to see its effect
    admin_password: str = ""  # of the first user of the tenant `default`, admin@localhost

    # Flows
    flow_shards: int = 1
    flow_shard: int = 0
    flow_poll_ms: int = 50  # between two batches, and between two inserts: up to four times as long under load
    flow_insert_ms: int = 200
    dedup_window_days: int = 35
    group_cardinality_limit: int = 10_000
    # A flow stops before more than this share of its recent events is quarantined. 100, never, is the default: events
    # that come before their customers are ordinary, and are replayed; one tenant must not stop the others.
    quarantine_max_percent: int = 100
    quarantine_min_events: int = 10_000  # the share is one of so many events at least

    # Billing
    billing_sweep_seconds: int = 10
    billing_grace_seconds: int = 3600
    billing_chunk_size: int = 1000

    # Webhooks
    webhooks_allow_private: bool = False  # endpoints on private and loopback addresses; `meterline dev` allows them

    # Payments
    stripe_api_base: str = ""  # of accounts connected from now on; empty: where Stripe's library goes

    # Documents
    document_fonts: str = ""  # a folder of fonts for scripts that the bundled ones do not have

    # Proof that windows are what the stored events give
    proof_seconds: int = 300  # of what has come since the last one
    proof_full_hours: int = 24  # of everything
    proof_repairs: bool = True  # a drift is repaired by counting the meter anew

    # The embedded stack
    data_dir: Path = Path("~/.local/share/meterline")
    cache_dir: Path = Path("~/.cache/meterline")

    # Observability
    log_level: str = "info"
    log_format: str = "auto"  # json | console | auto: console on a terminal, else json
    metrics_port: int = 0  # of flow and worker processes; 0: none. The API serves /metrics itself
