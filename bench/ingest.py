"""How many events a second the whole pipeline takes, how fresh they are, and what each process pays.

`python -m bench.ingest --rate 150000` starts a stack of its own in a temporary directory (or loads `--url` with
`--api-key`), lets a generator in a process of its own send at a fixed rate, and counts what was acknowledged, what was
stored, how long single events took to show, and the CPU of every process. At the end what was acknowledged must be
what is stored and counted, event by event; if it is not, the status is 1. Beside it: what the same broker takes from
a bare producer, with messages of the same size.
"""

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from rich.console import Console
from rich.table import Table

from bench.load import CUSTOMERS
from bench.probe import Probe
from bench.processes import cpu_seconds
from bench.raw import measure_broker
from infra.cli.demo.stack import running_stack
from infra.clickhouse.client import connect

MAX_SECONDS = 900
DRAIN_SECONDS = 120
BUILD_SECONDS = 60
POLL_SECONDS = 0.25
DISTINCT_AT_ONCE = 5_000_000
WARM_UP_ID = 900_000_000_000  # ids of the warm-up: no measured request has them
METERS: list[dict[str, Any]] = [
    {"key": "tokens", "event_type": "llm.completion", "aggregation": "sum", "value": "$.tokens", "group_by": ["model"]},
    {"key": "completions", "event_type": "llm.completion", "aggregation": "count"},
    {"key": "embeddings", "event_type": "llm.embedding", "aggregation": "count"},
]
COUNTS = ("completions", "embeddings")


@dataclass(slots=True, kw_only=True)
class Result:
    """Rates are events a second; latencies milliseconds; CPU microseconds an event."""

    offered: float
    events_a_request: int
    seconds: float
    acknowledged: int = 0
    retries: int = 0
    acknowledged_a_second: float = 0.0
    stored_in_window_a_second: float = 0.0
    stored_with_drain_a_second: float = 0.0
    drain_seconds: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    counter_p50_ms: float | None = None
    counter_p99_ms: float | None = None
    usage_p50_ms: float | None = None
    usage_p99_ms: float | None = None
    probes: int = 0
    cpu_us_an_event: dict[str, float] = field(default_factory=dict[str, float])
    raw_broker_a_second: float | None = None
    counted: int = 0
    stored_distinct: int | None = None
    exact: bool = False


def quantile(sorted_values: list[float], share: float) -> float | None:
    return sorted_values[min(int(len(sorted_values) * share), len(sorted_values) - 1)] if sorted_values else None


class Bench:
    """One run against a serving API, in a tenant of its own."""

    def __init__(self, options: argparse.Namespace, url: str, key: str) -> None:
        self._options = options
        self._url = url
        operator = _client(url, key)
        tenant = operator.post("/v1/tenants", json={"name": f"bench {secrets.token_hex(4)}"})
        if tenant.status_code != 201:
            raise SystemExit(f"an operator's key is needed: {tenant.text}")
        self._key: str = tenant.json()["api_key"]
        self._client = _client(url, self._key)
        self.source = f"bench-{secrets.token_hex(4)}"
        self.probe = Probe(_client(url, self._key), prefix=self.source)

    def prepare(self) -> None:
        """Meters and customers, and those of the probe. When it returns every meter is built: no build takes part in
        what is measured."""
        for meter in METERS:
            _created(self._client.post("/v1/meters", json=meter))
        self.probe.prepare()

        def make(number: int) -> None:
            body = {"external_id": f"customer-{number}", "name": f"Customer {number}", "currency": "USD"}
            _created(self._client.post("/v1/customers", json=body))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(make, range(CUSTOMERS)))
        deadline = time.monotonic() + BUILD_SECONDS
        while any(meter["status"] != "ready" for meter in self._client.get("/v1/meters").json()["data"]):
            if time.monotonic() > deadline:
                raise SystemExit(f"meters are not built after {BUILD_SECONDS} s")
            time.sleep(POLL_SECONDS)

    def counted(self) -> int:
        """Events of the load that usage shows."""
        total = 0
        for meter in COUNTS:
            rows = self._client.get("/v1/usage", params={"meter": meter}).json()["data"]
            total += int(rows[0]["value"]) if rows else 0
        return total

    def load(self, *, rate: float, seconds: float, first_id: int = 0) -> subprocess.Popen[str]:
        """A generator, started."""
        parts = urlsplit(self._url)
        options = {
            "host": parts.hostname, "port": parts.port, "key": self._key, "rate": rate, "seconds": seconds,
            "events": self._options.events_per_request, "connections": self._options.connections,
            "source": self.source, "first-id": first_id,
        }  # fmt: skip
        command = [sys.executable, "-m", "bench.load"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def wait_stored(self, wanted: int) -> float:
        """Wait until usage shows so many, and says that all that came up to now is stored, which raw rows are after
        usage; the seconds it took. What is missing then is shown by the result."""
        sent_until, started = datetime.now(UTC), time.monotonic()
        while time.monotonic() < started + DRAIN_SECONDS:
            if self.counted() >= wanted and self._stored_until() >= sent_until:
                break
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def _stored_until(self) -> datetime:
        as_of = self._client.get("/v1/usage", params={"meter": COUNTS[0]}).json()["as_of"]
        return datetime.fromisoformat(as_of) if as_of else datetime.min.replace(tzinfo=UTC)

    def run(self, root: int | None) -> Result:
        """Warm up, load, drain. `root`: the process whose tree is the stack."""
        options = self._options
        warm_up = finish(self.load(rate=options.rate / 4, seconds=options.warm_up, first_id=WARM_UP_ID))
        self.wait_stored(warm_up["acknowledged"])
        probe = self.probe
        before = cpu_seconds(root) if root else {}
        probing = threading.Thread(target=probe.run)
        probing.start()
        generator = self.load(rate=options.rate, seconds=options.seconds)
        assert generator.stdout is not None
        last_line = generator.stdout.readline()
        started = time.monotonic()
        for line in generator.stdout:
            last_line = line
        loaded_seconds = time.monotonic() - started
        in_window = self.counted() - warm_up["acknowledged"]
        probe.stop()
        answer = json.loads(last_line)
        drain_seconds = self.wait_stored(warm_up["acknowledged"] + answer["acknowledged"])
        probing.join()
        after = cpu_seconds(root) if root else {}
        return self._result(
            answer, warm_up["acknowledged"], before, after, in_window, loaded_seconds, drain_seconds, probe
        )

    def _result(
        self,
        answer: dict[str, Any],
        warm_up: int,
        before: dict[str, float],
        after: dict[str, float],
        in_window: int,
        loaded_seconds: float,
        drain_seconds: float,
        probe: Probe,
    ) -> Result:
        options = self._options
        acknowledged: int = answer["acknowledged"]
        latencies: list[float] = answer["latencies_ms"]
        cpu = {part: after[part] - before.get(part, 0) for part in after} | {"generator": answer["cpu_seconds"]}
        usage, counter = sorted(probe.usage_ms), sorted(probe.counter_ms)
        return Result(
            offered=options.rate,
            events_a_request=options.events_per_request,
            seconds=options.seconds,
            acknowledged=acknowledged,
            retries=answer["retries"],
            acknowledged_a_second=acknowledged / max(answer["elapsed_seconds"], options.seconds),
            stored_in_window_a_second=in_window / loaded_seconds,
            stored_with_drain_a_second=acknowledged / (loaded_seconds + drain_seconds),
            drain_seconds=drain_seconds,
            latency_p50_ms=quantile(latencies, 0.5) or 0,
            latency_p99_ms=quantile(latencies, 0.99) or 0,
            counter_p50_ms=quantile(counter, 0.5),
            counter_p99_ms=quantile(counter, 0.99),
            usage_p50_ms=quantile(usage, 0.5),
            usage_p99_ms=quantile(usage, 0.99),
            probes=len(usage),
            cpu_us_an_event={part: round(used * 1e6 / max(acknowledged, 1), 3) for part, used in sorted(cpu.items())},
            counted=self.counted() - warm_up,
            exact=self.counted() - warm_up == acknowledged and answer["gave_up"] == 0,
        )


def _client(url: str, key: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def _created(answer: httpx2.Response) -> None:
    if answer.status_code != 201:
        raise SystemExit(f"{answer.request.url}: {answer.text}")


def finish(generator: subprocess.Popen[str]) -> dict[str, Any]:
    """The last line of a generator that has ended."""
    output, _ = generator.communicate()
    return json.loads(output.splitlines()[-1])


def check_stored(clickhouse_url: str, source: str, result: Result, warm_up_prefix: str) -> None:
    """Count the distinct ids that the raw table holds, a share of them at a time: memory for all would not do."""
    query = (
        "SELECT uniqExact(hash) FROM events WHERE source = {source:String} AND NOT startsWith(id, {prefix:String})"
        " AND reinterpretAsUInt8(hash) % {shares:UInt8} = {share:UInt8}"
    )
    shares = 1 + result.acknowledged // DISTINCT_AT_ONCE
    names = {"source": source, "prefix": warm_up_prefix, "shares": shares}
    with closing(connect(clickhouse_url)) as client:
        result.stored_distinct = sum(
            client.query(query, parameters={**names, "share": share}).result_rows[0][0] for share in range(shares)
        )
    result.exact = result.exact and result.stored_distinct == result.acknowledged


def to_table(result: Result) -> Table:
    table = Table(
        title=f"{result.offered:,.0f} events/s offered, {result.events_a_request:,} a request, {result.seconds:g} s"
    )
    table.add_column("")
    table.add_column("", justify="right")
    rows: list[tuple[str, Any]] = [
        ("acknowledged events/s", f"{result.acknowledged_a_second:,.0f}"),
        ("acknowledged requests/s", f"{result.acknowledged_a_second / result.events_a_request:,.0f}"),
        ("stored events/s while loading", f"{result.stored_in_window_a_second:,.0f}"),
        ("stored events/s, drain included", f"{result.stored_with_drain_a_second:,.0f}"),
        ("drain", f"{result.drain_seconds:.1f} s"),
        ("answer p50 / p99", f"{result.latency_p50_ms:,.0f} / {result.latency_p99_ms:,.0f} ms"),
    ]
    if result.probes:
        rows += [
            ("202 → counter p50 / p99", f"{result.counter_p50_ms:,.0f} / {result.counter_p99_ms:,.0f} ms"),
            ("202 → usage p50 / p99", f"{result.usage_p50_ms:,.0f} / {result.usage_p99_ms:,.0f} ms"),
            ("probes", result.probes),
        ]
    rows += [(f"CPU of {part}", f"{used:.2f} µs an event") for part, used in result.cpu_us_an_event.items()]
    if result.raw_broker_a_second is not None:
        rows.append(("bare producer into the same broker", f"{result.raw_broker_a_second:,.0f} events/s"))
    rows.append(
        ("acknowledged / counted / stored", f"{result.acknowledged:,} / {result.counted:,} / {result.stored_distinct}")
    )
    rows.append(("sent again", result.retries))
    for name, value in rows:
        table.add_row(name, str(value))
    table.caption = "every acknowledged event is counted once" if result.exact else "NOT EXACT"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="meterline bench ingest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=None, help="events a second (default 150,000; single 4,000)")
    parser.add_argument("--events-per-request", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=3)
    parser.add_argument("--single", action="store_true", help="one event a request")
    parser.add_argument("--url", help="an API that serves already; needs an operator's --api-key")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must be 1 to {MAX_SECONDS}")
    if options.single:
        options.events_per_request = 1
    options.rate = options.rate or (4_000 if options.single else 150_000)
    options.connections = options.connections or (256 if options.single else 12)
    result = _measure(options)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        Console().print(to_table(result))
    raise SystemExit(0 if result.exact else 1)


def _measure(options: argparse.Namespace) -> Result:
    if options.url:
        bench = Bench(options, options.url, options.api_key)
        bench.prepare()
        return bench.run(None)
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder, running_stack(Path(folder)) as stack:
        bench = Bench(options, stack.url, stack.key)
        bench.prepare()
        result = bench.run(stack.process.pid)
        addresses = json.loads((Path(folder) / "stack.json").read_text())["addresses"]
        check_stored(addresses["clickhouse_url"], bench.source, result, str(WARM_UP_ID)[:3])
        result.raw_broker_a_second = measure_broker(addresses["kafka_bootstrap"], options.events_per_request)
        return result


if __name__ == "__main__":
    main()
