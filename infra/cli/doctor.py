"""`meterline doctor`: which servers are used, from where, which version, and whether they answer."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra.cli.ledger import ask_invariants, check_ledger
from infra.cli.proof import prove
from infra.liveness import Liveness, ask_flow, ask_worker
from infra.local import record
from infra.local.component import Probe, probe_of, without_password
from infra.postgres.pool import PostgresError
from infra.settings import Settings

PROBE_LIMIT_SECONDS = 5
MAX_ANSWER_BYTES = 64 * 1024

#: Component: the setting that names it.
STORES = {
    "postgres": "postgres_dsn",
    "kafka": "kafka_bootstrap",
    "clickhouse": "clickhouse_url",
    "temporal": "temporal_address",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of one component. `detail` says where its address comes from, or what to do next."""

    name: str
    address: str
    version: str
    ok: bool
    detail: str


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="Of a running `meterline dev`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    proof: Annotated[
        bool, typer.Option("--proof", help="Prove that usage is what the stored events give, for every meter.")
    ] = False,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Check that invoices, payments, credit notes and numbers add up.")
    ] = False,
    meter: Annotated[str | None, typer.Option(help="With --proof: this meter alone, by key or id.")] = None,
) -> None:
    """Ask every component a real question. Exit status 0 when all answer, else 1."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    if meter is not None and not proof:
        raise typer.BadParameter("says which meter --proof is to prove", param_hint="--meter")
    if proof and ledger:
        raise typer.BadParameter("is one question, --proof another", param_hint="--ledger")
    if proof or ledger:
        filled = record.with_addresses(settings, record.running(record.resolve_data_dir(settings)))
        answer = prove(filled, meter=meter, as_json=as_json) if proof else check_ledger(filled, as_json=as_json)
        raise typer.Exit(answer)
    findings = examine(settings)
    healthy = all(finding.ok for finding in findings)
    if as_json:
        print(json.dumps({"ok": healthy, "components": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    raise typer.Exit(0 if healthy else 1)


def examine(settings: Settings) -> list[Finding]:
    """One finding a component, in a fixed order. Components are asked side by side."""
    home = record.resolve_data_dir(settings)
    running = record.running(home)
    known = running.addresses if running else {}

    def store(name: str) -> Finding:
        setting = STORES[name]
        given = str(getattr(settings, setting))
        variable = f"METERLINE_{setting.upper()}"
        origin = f"from {variable}" if given else f"embedded, data in {home}"
        address = given or known.get(setting, "")
        if not address:
            advice = f"no address, and no stack runs in {home}: start `meterline dev`, or set {variable}"
            return Finding(name=name, address="", version="", ok=False, detail=advice)
        logs = f"see {home / 'logs' / f'{name}.log'}" if not given else f"check {variable} and the server behind it"
        version = None if given or running is None else running.versions.get(name)
        return _ask(name, address, probe_of(name), version, origin, logs)

    with ThreadPoolExecutor(len(STORES)) as pool:
        findings = list(pool.map(store, STORES))
    filled = record.with_addresses(settings, running)
    services = [
        _service("flow", filled.postgres_dsn, lambda now: ask_flow(filled, PROBE_LIMIT_SECONDS, now), home),
        _service("worker", filled.temporal_address, lambda now: ask_worker(filled, PROBE_LIMIT_SECONDS, now), home),
    ]
    invariants = [_invariants(filled.postgres_dsn)] if findings[0].ok else []
    return [*findings, *services, _api(settings, known.get("api_url", ""), home), *invariants]


def _invariants(dsn: str) -> Finding:
    """What the worker's last check of invariants left in the store at `dsn`."""
    try:
        ok, detail = ask_invariants(dsn)
    except PostgresError as error:
        ok, detail = False, f"not known ({' '.join(str(error).split())})"
    return Finding(name="invariants", address="", version="", ok=ok, detail=detail)


def _api(settings: Settings, running_url: str, home: Path) -> Finding:
    """The API that other commands ask: METERLINE_URL before that of the stack in `home`, `running_url`."""
    given = os.environ.get("METERLINE_URL", "").rstrip("/")
    url, origin, version = f"http://{settings.api_host}:{settings.api_port}", "from METERLINE_API_HOST and _PORT", None
    if running_url:
        url, origin, version = running_url, f"run by `meterline dev`, data in {home}", version_of("meterline")
    if given and given != running_url:
        url, origin, version = given, "from METERLINE_URL", None
    return _ask("api", url, ask_api, version, origin, "start `meterline dev` or `meterline api`")


def ask_api(address: str, timeout_seconds: float) -> str:
    """The version that GET /readyz names. Raises OSError when the service is not ready, with what it waits for."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=timeout_seconds) as response:  # noqa: S310 - our own http URL
            answer = json.loads(response.read(MAX_ANSWER_BYTES) or b"{}")
    except urllib.error.HTTPError as error:
        raise OSError(_what_it_waits_for(error)) from error
    return str(answer.get("version", "")) if isinstance(answer, dict) else ""


def _what_it_waits_for(error: urllib.error.HTTPError) -> str:
    try:
        components = json.loads(error.read(MAX_ANSWER_BYTES))["components"]
        waits = [f"{each['name']} {each['status']}" for each in components if each["status"] != "ok"]
    except (ValueError, KeyError, TypeError):
        return str(error)
    return f"not ready: {', '.join(waits)}"


def _service(name: str, address: str, ask: Callable[[datetime], Liveness], home: Path) -> Finding:
    """A service that serves nobody: it is known by what it leaves in the store at `address`."""
    logs = f"start `meterline dev` or `meterline {name}`; the log of the former is {home / 'logs' / f'{name}.log'}"
    if not address:
        return Finding(name=name, address="", version="", ok=False, detail=logs)
    try:
        found = ask(datetime.now(UTC))
    except Exception as error:  # each client library has errors of its own; every one of them is shown
        said = " ".join(str(error).split()) or type(error).__name__
        return Finding(name=name, address="", version="", ok=False, detail=f"not known ({said}); {logs}")
    ok = found.status == "ok"
    return Finding(name=name, address="", version="", ok=ok, detail=found.detail if ok else f"{found.detail}; {logs}")


def _ask(name: str, address: str, probe: Probe, version: str | None, origin: str, next_step: str) -> Finding:
    """`version`, when known, says more than the protocol does."""
    shown = without_password(address)
    try:
        answered = probe(address, PROBE_LIMIT_SECONDS)
    except Exception as error:  # each client library has errors of its own; every one of them is shown
        said = " ".join(str(error).split()) or type(error).__name__
        return Finding(name=name, address=shown, version="", ok=False, detail=f"no answer ({said}); {next_step}")
    return Finding(name=name, address=shown, version=version or answered, ok=True, detail=origin)


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        sign = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        console.print(f"{sign} [bold]{finding.name:<10}[/] {finding.version}", end="  ")
        console.print(f"{finding.address}\n  {finding.detail}", markup=False)
