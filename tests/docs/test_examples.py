"""The examples run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pricing.cases import run_case
from pricing.charges import parse_plan_price, parse_price
from tests.support.pages import ROOT
from tests.support.services import Services


def run(name: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pricing_engine_works_alone() -> None:
    assert run("pricing_alone.py").splitlines()[-2:] == [
        f"{'exact':<40} 16.5577226",
        f"{'on the invoice':<40} 16.56 USD",
    ]


def test_a_python_program_gets_its_first_invoice(services: Services) -> None:
    printed = run("first_invoice.py", METERLINE_URL=services.url, METERLINE_API_KEY=services.new_tenant_key())
    assert "acknowledged: 3" in printed
    assert "INV-000001: 5.00 EUR" in printed
    assert "next: Uploads" in printed


def test_a_process_keeps_a_copy_of_entitlements(services: Services) -> None:
    key = services.new_tenant_key()
    with services.client(key) as api:

        def post(path: str, body: Any) -> None:
            assert api.post(path, json=body).status_code == 201

        post("/v1/features", {"key": "sso", "type": "boolean"})
        post("/v1/plans", {"key": "pro", "currency": "USD", "prices": [], "entitlements": [{"feature": "sso"}]})
        post("/v1/customers", {"external_id": "acme"})
        post("/v1/subscriptions", {"customer": "acme", "plan": "pro"})
    environment = {"METERLINE_URL": services.url, "METERLINE_API_KEY": key}
    first, cost = run("local_entitlements.py", "acme", "sso", **environment).splitlines()
    assert first == "acme sso: allowed=True used=None limit=None"
    assert re.fullmatch(r"one look: \d+ ns", cost)
    assert "is entitled to no sso" in run("local_entitlements.py", "globex", "sso", **environment)


def test_every_example_is_named_in_the_readme_and_run_here() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f"({name})" not in readme or f'"{name}"' not in here] == []


PAGES = sorted((ROOT / "examples" / "price_pages").glob("*.json"))


def test_the_six_price_pages_are_there_and_in_the_readme() -> None:
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert len(PAGES) == 6
    assert [page.name for page in PAGES if f"(price_pages/{page.name})" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_price_page_is_a_plan_whose_cases_hold(page: Path) -> None:
    built = json.loads(page.read_text(encoding="utf-8"))
    cases = [json.loads(line) for line in page.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert [result for result in map(run_case, cases) if not result.passed] == []
    given = [case["given"] for case in cases]
    proven = [parse_price(one["price"]) for body in given for one in [body, *body.get("lines", [])] if "price" in one]
    meters = {meter["key"] for meter in built["meters"]}
    for body in built["plan"]["prices"]:
        price = parse_plan_price(body, currency=built["plan"]["currency"])
        assert price.price in proven
        assert price.meter is None or price.meter in meters


def test_every_price_page_can_be_sent_as_it_is(services: Services) -> None:
    for page in PAGES:
        built = json.loads(page.read_text(encoding="utf-8"))
        with services.client(services.new_tenant_key()) as api:
            for meter in built["meters"]:
                answer = api.post("/v1/meters", json=meter)
                assert answer.status_code == 201, answer.text
            answer = api.post("/v1/plans", json=built["plan"])
            assert answer.status_code == 201, answer.text
