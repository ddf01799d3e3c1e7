"""What Prometheus may read. Every metric has its name, labels and meaning here; rooms import the objects."""

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest, start_http_server

__all__ = [
    "CHECKS_DEGRADED",
    "CONTENT_TYPE_LATEST",
    "EVENTS_RECEIVED",
    "HTTP_REQUESTS",
    "HTTP_SECONDS",
    "INGEST_DELAY",
    "INGEST_FLOW_LAG",
    "REPLICA_CUSTOMERS",
    "REPLICA_LIVE",
    "render",
    "serve",
]

#: `route` is the template (`/v1/customers/{customer}`), never the path: labels stay few.
HTTP_REQUESTS = Counter("meterline_http_requests", "Requests answered.", ["method", "route", "status"])
#: `outcome`: accepted (the broker has it), duplicate (of its own request), rejected (with a code of its own).
EVENTS_RECEIVED = Counter("meterline_events_received", "Events of answered requests.", ["outcome"])
INGEST_FLOW_LAG = Gauge("meterline_ingest_flow_lag_seconds", "Age of what all counters hold, as ingestion sees it.")
INGEST_DELAY = Gauge("meterline_ingest_delay_seconds", "What answers to events wait for while the flow is behind.")
CHECKS_DEGRADED = Counter("meterline_checks_degraded", "Checks answered without knowing what is used.", ["allowed"])
REPLICA_LIVE = Gauge("meterline_replica_live", "1 while checks are answered from memory, up to date.")
REPLICA_CUSTOMERS = Gauge("meterline_replica_customers", "Customers whose entitlements are in memory.")
HTTP_SECONDS = Histogram(
    "meterline_http_request_seconds",
    "Time from the request's head to the answer's last byte.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)


def render() -> bytes:
    """All metrics of this process in Prometheus's text form."""
    return generate_latest()


def serve(port: int, address: str = "127.0.0.1") -> None:
    """Serve /metrics in a thread of its own, for processes without HTTP. Port 0: not at all."""
    if port:
        start_http_server(port, addr=address)
