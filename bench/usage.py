"""How fast usage is answered: a real ClickHouse with stored events, asked over HTTP.

`python -m bench.usage [--events 1000000,10000000] [--customers 1000] [--requests 40]` on servers of its own, or those
that METERLINE_… names. Per size it makes one tenant with its customers and 30 days of events in batches of 20,000, raw
rows and windows, in databases of their own that are dropped again. Every request is for another customer. The
milliseconds are those of one client, one request at a time; the last column is p50 of the largest size over that of the
smallest, where there are several. The API's log is a file, named in the beginning.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from bench.billing import drop, own_stores
from infra.clickhouse.client import Client
from infra.clickhouse.client import connect as connect_clickhouse
from infra.local.ports import choose
from infra.local.stack import running_stack
from infra.postgres.pool import connect
from infra.settings import Settings

CUSTOMERS = 1_000
DAYS = 30
BATCH = 20_000  # events of one (shard, seq)
INSERT = 200_000  # events of one INSERT
LEVELS = 100  # one event in so many sets a level
START = datetime(2026, 1, 1, tzinfo=UTC)
ROOT_KEY = "mtr_root-key-of-the-bench"
START_SECONDS = 30
MERGE_SECONDS = 120

METERS = {
    "tokens": {"aggregation": "sum", "value": "$.tokens", "group_by": ["model"]},
    "users": {"aggregation": "unique_count", "value": "$.user"},
    "peak": {"aggregation": "max", "value": "$.tokens"},
    "seats": {"aggregation": "weighted_sum", "value": "$.tokens"},
}

#: What is asked; `customer` and the range are added. `cut`: from and to lie within minutes.
CASES: dict[str, dict[str, str]] = {
    "one customer by day": {"meter": "tokens", "window": "day", "timezone": "America/New_York"},
    "one customer by day, minutes cut": {"meter": "tokens", "window": "day", "cut": "yes"},
    "one customer by model": {"meter": "tokens", "group_by": "model"},
    "all customers by day": {"meter": "tokens", "window": "day", "customer": ""},
    "one customer's peak by day": {"meter": "peak", "window": "day"},
    "one customer's unique users by day": {"meter": "users", "window": "day"},
    "unique users of all customers": {"meter": "users", "customer": ""},
    "one customer's time average by day": {"meter": "seats", "window": "day"},
    "time average of all customers by day": {"meter": "seats", "window": "day", "customer": ""},
}


def main() -> None:
    options = argparse.ArgumentParser(
        prog="meterline bench usage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--events", default="1000000", help="sizes, with commas")
    options.add_argument(
        "--customers", type=int, default=CUSTOMERS, help="fewer: more rows for each, as in a larger store"
    )
    options.add_argument("--requests", type=int, default=40, help="of each case")
    given = options.parse_args()
    sizes = [int(size) for size in given.events.split(",")]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's own user has to reach its folder below
        with running_stack(Settings(data_dir=Path(folder)), console.print, console) as stack:
            found = {size: measure(stack.settings, size, given.customers, given.requests, console) for size in sizes}
    Console(width=120).print(to_table(found))


def measure(servers: Settings, events: int, customers: int, requests: int, console: Console) -> dict[str, list[float]]:
    """Seconds of each request, by case, on stores that are dropped again."""
    settings, name = own_stores(servers)
    try:
        with api(settings, console) as door, closing(connect_clickhouse(settings.clickhouse_url)) as clickhouse:
            tenant_no, meters, numbers = fill_postgres(settings, door, customers)
            started = time.monotonic()
            fill_clickhouse(clickhouse, tenant_no, meters, numbers, events)
            parts = settle(clickhouse)
            door.close()
            console.print(f"{events:,} events stored in {time.monotonic() - started:.0f} s; parts: {parts}")
            return {case: ask(door, query, customers, requests) for case, query in CASES.items()}
    finally:
        drop(settings, name)


class Door:
    """One keep-alive connection to the API."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.key = ROOT_KEY

    def close(self) -> None:
        """The next call opens it anew: the server leaves one that idles."""
        self._connection.close()

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except OSError:
            self.close()
            raise


@contextmanager
def api(settings: Settings, console: Console) -> Generator[Door]:
    """An API process over the stores, ready. Its log is a file that stays, for whoever wonders."""
    port = choose(set())
    given = settings.model_copy(update={"api_port": port, "root_key": ROOT_KEY}).model_dump()
    environment = {f"METERLINE_{key.upper()}": str(value) for key, value in given.items() if value is not None}
    with tempfile.NamedTemporaryFile(prefix="meterline-bench-api-", suffix=".log", delete=False) as log:
        console.print(f"The API's log is {log.name}", soft_wrap=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "ingestion_api"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        door, deadline = Door(port), time.monotonic() + START_SECONDS
        while True:
            try:
                door.call("GET", "/healthz")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield door
    finally:
        process.terminate()
        process.wait()


def fill_postgres(settings: Settings, door: Door, count: int) -> tuple[int, dict[str, int], list[int]]:
    """A tenant whose key the door has from then on; its number, those of its meters, and of its customers."""
    door.key = json.loads(door.call("POST", "/v1/tenants", {"name": "bench"})[1])["api_key"]
    for key, terms in METERS.items():
        status, text = door.call("POST", "/v1/meters", {"key": key, "event_type": "call", **terms})
        assert status == 201, text
    with connect(settings.postgres_dsn) as connection:
        tenant = connection.execute("SELECT id, no FROM tenants WHERE name = 'bench'").fetchone()
        assert tenant is not None
        connection.execute(
            "INSERT INTO customers (id, tenant_id, external_id, name, currency, timezone, created_at)"
            " SELECT 'cus_' || n, %s, 'c' || n, 'c', 'USD', 'UTC', %s FROM generate_series(1, %s) AS n ORDER BY n",
            (tenant["id"], START, count),
        )
        meters = {row["key"]: row["no"] for row in connection.execute("SELECT key, no FROM meters")}
        customers = [row["no"] for row in connection.execute("SELECT no FROM customers ORDER BY no")]
    return tenant["no"], meters, customers


#: One event a number, spread evenly over the days; all that depends on chance comes from hashes of the number.
EVENTS_SQL = (
    "SELECT number, intDiv(number, {batch:UInt64}) + 1 AS seq,"
    " {first_customer:UInt64} + cityHash64(number) % {customers:UInt64} AS customer_no,"
    " fromUnixTimestamp64Micro({start:Int64} + toInt64(number * {micros:Float64}), 'UTC') AS at,"
    " concat('=model-', toString(cityHash64(number, 1) % 4)) AS model, cityHash64(number, 2) % 5000 AS tokens,"
    " concat('user-', toString(cityHash64(number, 3) % 100000)) AS user"
    " FROM numbers({first:UInt64}, {count:UInt64})"
)
RAW_SQL = (
    "INSERT INTO events (tenant_no, hash, kafka_partition, kafka_offset, kafka_index, shard, seq, received_at,"  # noqa: S608 - texts of this file, here and below
    " occurred_at, untimed, source, id, type, subject, data, extensions, customer_no, status, code)"
    " SELECT {tenant:UInt32}, sipHash128(number), 0, seq, number % {batch:UInt64}, 0, seq, at, at, false, 'api',"
    " toString(number), 'call', concat('c', toString(customer_no)),"
    ' concat(\'{"model":"\', substring(model, 2), \'","tokens":\', toString(tokens),'
    " ',\"user\":\"', user, '\"}'), '',"
    f" customer_no, 'counted', '' FROM ({EVENTS_SQL})"
)
MINUTES_SQL = (
    "INSERT INTO usage_minutes SELECT {tokens:UInt32}, 1, customer_no, toStartOfMinute(at) AS minute, [model], 0, seq,"  # noqa: S608
    f" count(), sum(toDecimal256(tokens, 12)) FROM ({EVENTS_SQL}) GROUP BY customer_no, minute, model, seq"
)
VALUES_SQL = (
    "INSERT INTO usage_values SELECT {meter:UInt32}, 1, customer_no, at, [], at, 0, seq, number % {batch:UInt64}, 1, 0,"  # noqa: S608
    " seq, if({texts:Bool}, 0, tokens), if({texts:Bool}, concat('=', user), '')"
    f" FROM ({EVENTS_SQL}) WHERE number % {{every:UInt64}} = 0"
)


def fill_clickhouse(
    client: Client, tenant_no: int, meters: dict[str, int], customers: Sequence[int], events: int, *, days: int = DAYS
) -> None:
    """Raw rows and the windows that follow from them, in inserts of INSERT events."""
    micros = days * 86_400_000_000 / events
    for first in range(0, events, INSERT):
        given = {
            "batch": BATCH, "first_customer": customers[0], "customers": len(customers), "micros": micros,
            "start": int(START.timestamp()) * 1_000_000, "first": first, "count": min(INSERT, events - first),
            "tenant": tenant_no, "tokens": meters["tokens"],
        }  # fmt: skip
        client.command(RAW_SQL, parameters=given)
        client.command(MINUTES_SQL, parameters=given)
        for key, every in (("users", 1), ("peak", 1), ("seats", LEVELS)):
            own = {"meter": meters[key], "texts": key == "users", "every": every}
            client.command(VALUES_SQL, parameters=given | own)


def settle(client: Client) -> dict[str, int]:
    """Wait until ClickHouse has merged what it wants to, or MERGE_SECONDS; the active parts of each table."""
    deadline = time.monotonic() + MERGE_SECONDS
    while time.monotonic() < deadline and client.query("SELECT count() FROM system.merges").result_rows[0][0]:
        time.sleep(1)
    rows = client.query(
        "SELECT table, count() FROM system.parts WHERE active AND database = currentDatabase()"
        " AND table IN ('events', 'usage_minutes', 'usage_values') GROUP BY table ORDER BY table"
    ).result_rows
    return {table: count for table, count in rows}  # noqa: C416 - rows are of lists


def ask(door: Door, case: dict[str, str], customers: int, requests: int) -> list[float]:
    """Seconds of each request, after one that is not counted; none when the API refuses it for taking too long."""
    cut = timedelta(seconds=17) if "cut" in case else timedelta(0)
    query = {name: value for name, value in case.items() if name != "cut"}
    query |= {"from": _text(START + cut), "to": _text(START + timedelta(days=DAYS) - cut)}
    seconds: list[float] = []
    for number in range(requests + 1):
        path = "/v1/usage?" + urlencode(_of_customer(query, number % customers + 1))
        started = time.perf_counter()
        status, text = door.call("GET", path)
        seconds.append(time.perf_counter() - started)
        if status == 503:  # the API gives up what takes longer than a request may
            return []
        assert status == 200, text
        assert json.loads(text)["data"], text
    return seconds[1:]


def _of_customer(query: dict[str, str], number: int) -> dict[str, str]:
    asked = {"customer": f"c{number}"} | query
    return {name: value for name, value in asked.items() if value}


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def to_table(found: dict[int, dict[str, list[float]]]) -> Table:
    """Milliseconds, p50 and p99 of each size, and how p50 grows from the smallest to the largest."""
    sizes = sorted(found)
    table = Table(title=f"GET /v1/usage over {DAYS} days, milliseconds")
    table.add_column("asked")
    for size in sizes:
        table.add_column(f"{size:,}\np50 / p99", justify="right")
    if len(sizes) > 1:
        table.add_column("ratio", justify="right")
    for case in CASES:
        cells = [_cell(found[size][case]) for size in sizes]
        smallest, largest = found[sizes[0]][case], found[sizes[-1]][case]
        grown = f"{_percentile(largest, 50) / _percentile(smallest, 50):.1f}" if smallest and largest else ""
        table.add_row(case, *cells, *([grown] if len(sizes) > 1 else []))
    return table


def _cell(seconds: Sequence[float]) -> str:
    return f"{_percentile(seconds, 50):.0f} / {_percentile(seconds, 99):.0f}" if seconds else "refused"


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return 1000 * quantiles(seconds, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
