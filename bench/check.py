"""How fast checks and reservations are answered, by one API process beside everything else.

`python -m bench.check [--reserve] [--hot] [--overshoot] [--customers 2000] [--seconds 10]` starts a stack of its own,
entitles the customers to a metered feature, and lets first one connection and then many ask in a closed loop, from this
process on the same cores. One connection shows the latency, many the rate. `--reserve` reserves instead, `--hot` always
of one customer. Beside it: the CPU of the API and of PostgreSQL an answer. `--overshoot`: how far clients that check
before each event pass a hard limit, and nothing else. How soon a check sees an event is measured by `bench.ingest`, at
any load.
"""

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.decisions import Score, ask, make_requests, prepare
from bench.overshoot import measure_overshoot
from bench.processes import cpu_seconds
from infra.cli.demo.stack import running_stack

CONNECTIONS = (1, 32)
OVERSHOOT_CLIENTS = 8
MAX_SECONDS = 120


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="meterline bench check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reserve", action="store_true", help="reserve instead of checking")
    parser.add_argument("--hot", action="store_true", help="ask about one customer only")
    parser.add_argument("--overshoot", action="store_true", help="how far plain events pass a hard limit")
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not 1 <= options.seconds <= MAX_SECONDS:
        parser.error(f"--seconds must be 1 to {MAX_SECONDS}")
    rows = _measure(options)
    if options.json:
        print(json.dumps(rows))
        return
    title = "events past a hard limit" if options.overshoot else "reservations" if options.reserve else "checks"
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


def _measure(options: argparse.Namespace) -> list[dict[str, object]]:
    path = "/v1/entitlements/reserve" if options.reserve else "/v1/entitlements/check"
    more = ',"quantity":"1","ttl_seconds":600' if options.reserve else ""
    # Without the last one, of whom `prepare` has reserved: for a while PostgreSQL is asked about that.
    customers = [0] if options.hot else range(options.customers - 1)
    bodies = [f'{{"customer":"c-{number}","feature":"tokens"{more}}}'.encode() for number in customers]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder, running_stack(Path(folder)) as stack:
        if options.overshoot:
            return [measure_overshoot(stack.url, stack.key, OVERSHOOT_CLIENTS)]
        prepare(stack.url, stack.key, options.customers)
        for connections in (*CONNECTIONS, 256) if options.reserve else CONNECTIONS:
            requests = make_requests(path, stack.key, bodies)
            ask(stack.url, requests, connections=connections, seconds=1)
            before = cpu_seconds(stack.process.pid)
            score = ask(stack.url, requests, connections=connections, seconds=options.seconds)
            after = cpu_seconds(stack.process.pid)
            rows.append(_row(connections, score, {part: after[part] - before[part] for part in ("api", "postgres")}))
    return rows


def _row(connections: int, score: Score, cpu: dict[str, float]) -> dict[str, object]:
    return {
        "connections": connections,
        "answers_a_second": round(score.a_second),
        "p50_ms": round(score.quantile_ms(0.5), 2),
        "p99_ms": round(score.quantile_ms(0.99), 2),
        **{f"{part}_us_an_answer": round(used / len(score.latencies) * 1e6) for part, used in cpu.items()},
        "statuses": {status.decode(): times for status, times in score.statuses.items()},
    }


if __name__ == "__main__":
    main()
