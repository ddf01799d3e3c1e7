"""How long a simulation takes: what customers would have paid last quarter under a plan, asked over HTTP.

`python -m bench.simulation [--customers 10000] [--events 2000000]` on servers of its own, or those that METERLINE_…
names. One tenant, its customers, and three months of events, raw rows and windows, in databases that are dropped again.
The plans have five lines; three months are three invoices and a closing one for every customer. Goal: 10,000 customers
within a minute.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.billing import drop, own_stores
from bench.usage import api, fill_clickhouse, fill_postgres, settle
from infra.clickhouse.client import connect as connect_clickhouse
from infra.local.stack import running_stack
from infra.settings import Settings

DAYS = 90
RANGE = {"from": "2026-01-01T00:00:00Z", "to": "2026-04-01T00:00:00Z"}
GOAL_SECONDS = 60

TIERS = [{"up_to": "100000", "unit_amount": "0.00002"}, {"up_to": None, "unit_amount": "0.00001", "flat_amount": "1"}]
BASE = {"key": "base", "type": "fixed", "model": "flat", "amount": "49"}
PEAK = {"key": "peak", "type": "usage", "meter": "peak", "model": "per_unit", "unit_amount": "0.001"}
USERS = {
    "key": "users",
    "type": "usage",
    "meter": "users",
    "model": "package",
    "package_size": "10",
    "package_amount": "1",
}
MODELS = {
    "key": "models", "type": "usage", "meter": "tokens", "model": "matrix", "dimensions": ["model"],
    "cells": [{"match": {"model": "model-1"}, "unit_amount": "0.00003"}], "default_unit_amount": "0.00001",
}  # fmt: skip
TOKENS = {"key": "tokens", "type": "usage", "meter": "tokens", "model": "graduated", "tiers": TIERS}
PLANS: dict[str, list[dict[str, Any]]] = {
    "totals": [BASE, TOKENS, MODELS, PEAK, USERS],
    "buckets of a day": [
        BASE,
        {**TOKENS, "bucket": "day", "bucket_aggregation": "sum"},
        MODELS,
        {**PEAK, "bucket": "day", "bucket_aggregation": "max"},
        {**USERS, "bucket": "day", "bucket_aggregation": "unique_count"},
    ],
    "every transaction": [
        BASE,
        {
            "key": "fees", "type": "usage", "meter": "tokens", "model": "percentage", "rate": "0.1",
            "fixed_amount": "0.01", "free_transactions": 10,
        },
        MODELS,
        PEAK,
        USERS,
    ],
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(
        prog="meterline bench simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--customers", type=int, default=10_000, choices=range(1, 10_001), metavar="1–10000")
    options.add_argument("--events", type=int, default=2_000_000)
    given = options.parse_args()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="meterline-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's own user has to reach its folder below
        with running_stack(Settings(data_dir=Path(folder)), console.print, console) as stack:
            measure(stack.settings, given.customers, given.events, console)


def measure(servers: Settings, customers: int, events: int, console: Console) -> None:
    """Fill, simulate each plan once, and print the seconds."""
    settings, name = own_stores(servers)
    try:
        with api(settings, console) as door, closing(connect_clickhouse(settings.clickhouse_url)) as clickhouse:
            tenant_no, meters, numbers = fill_postgres(settings, door, customers)
            fill_clickhouse(clickhouse, tenant_no, meters, numbers, events, days=DAYS)
            console.print(f"{events:,} events of {customers:,} customers stored; parts: {settle(clickhouse)}")
            for plan, prices in PLANS.items():
                door.close()
                started = time.monotonic()
                body = {"plan": {"currency": "USD", "prices": prices}, **RANGE}
                status, text = door.call("POST", "/v1/pricing/simulate", body)
                seconds = time.monotonic() - started
                assert status == 200, text[:1000]
                check(json.loads(text), customers)
                print(f"{plan}: {customers:,} customers in {seconds:.1f} s (goal: 10,000 within {GOAL_SECONDS} s)")
    finally:
        drop(settings, name)


def check(answer: dict[str, Any], customers: int) -> None:
    """Everybody is in the answer with at least the fees of three months."""
    simulated = [Decimal(row["simulated"]) for row in answer["data"]]
    assert len(simulated) == customers, len(simulated)
    assert min(simulated) >= 3 * 49, min(simulated)


if __name__ == "__main__":
    main()
