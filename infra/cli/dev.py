"""`meterline dev`: the embedded servers and the three services of Meterline, in the foreground, until Ctrl-C."""

import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infra.cli.doctor import ask_api
from infra.local import ports, record
from infra.local.component import Component
from infra.local.errors import StackError
from infra.local.signals import leave, until_stopped
from infra.local.stack import Stack, running_stack
from infra.settings import Settings
from schemas.errors import MeterlineError

DEFAULT_PORT = 8080
MAX_PORT = 65_535
START_LIMIT_SECONDS = 300  # ready means metered up to now, also after a stop with a backlog
KEY_FILE = "api.key"
ADMIN_PASSWORD_FILE = "admin.password"  # noqa: S105 - the name of a file


def dev(
    port: Annotated[
        int | None, typer.Option(min=0, max=MAX_PORT, help=f"Default {DEFAULT_PORT} or the next free one; 0: any.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where everything is kept between two runs.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="The operator's key. Default: the last one, or one made at the first start.")
    ] = None,
    admin_password: Annotated[
        str | None, typer.Option(help="Of the first user, admin@localhost. Default: as with the key.")
    ] = None,
) -> None:
    """Exit status 0 after Ctrl-C, 1 when something can't start."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    try:
        api_port = _api_port(port)
        with until_stopped(), running_stack(settings, console.print, console) as stack:
            secrets = {
                "root_key": record.secret(stack.data_dir, KEY_FILE, prefix="mtr_", given=api_key or settings.root_key),
                "admin_password": record.secret(
                    stack.data_dir, ADMIN_PASSWORD_FILE, given=admin_password or settings.admin_password
                ),
            }
            # Imported now, while the servers already run: these client libraries take a second.
            applied, created = import_module("infra.cli.stores").bring_up_to_date(stack.settings)
            for name in [*applied, *created]:
                console.print(f"made {name}")
            url = _start_services(stack, api_port, secrets)
            stack.note(api_url=url)
            console.print(f"API key of the tenant `default`: {secrets['root_key']}")
            console.print(f"First user, for the console to come: admin@localhost, password {secrets['admin_password']}")
            if ui := stack.record.addresses.get("temporal_ui"):
                console.print(f"Workflows: {ui}")
            print(f"ready {url}", flush=True)
            threading.Event().wait()
    except MeterlineError as error:
        console.print(error)
        raise typer.Exit(1) from None
    leave(0)


def _api_port(asked: int | None) -> int:
    if asked is None:
        return ports.choose_from(DEFAULT_PORT)
    if asked == 0:
        return ports.choose(set())
    if not ports.is_free(asked):
        raise StackError("local.port_taken", f"Port {asked} is taken. Name another with --port, or leave it out.")
    return asked


def _start_services(stack: Stack, port: int, secrets: dict[str, str]) -> str:
    """Start the three services and wait until the API serves. Returns its base URL."""
    url = f"http://{ports.LOOPBACK}:{port}"
    environment = {
        **stack.environment(),
        "METERLINE_API_HOST": ports.LOOPBACK,
        "METERLINE_API_PORT": str(port),
        "METERLINE_WEBHOOKS_ALLOW_PRIVATE": "1",  # who tries it out receives on the same machine
        **{f"METERLINE_{name.upper()}": value for name, value in secrets.items()},
    }
    api = Component(
        name="api",
        command=_module("ingestion_api"),
        address=url,
        port=port,
        probe=ask_api,
        environment=environment,
        uses_others=True,
    )
    services = [api, _service("worker", "billing_workflows", environment)]
    shards = stack.settings.flow_shards
    for shard in range(shards):
        name = "flow" if shards == 1 else f"flow-{shard}"
        services.append(_service(name, "flows", {**environment, "METERLINE_FLOW_SHARD": str(shard)}))
    for service in services:
        stack.supervisor.start(service)
    stack.supervisor.wait_until_ready([service.name for service in services], START_LIMIT_SECONDS)
    return url


def _service(name: str, module: str, environment: dict[str, str]) -> Component:
    return Component(name=name, command=_module(module), environment=environment, uses_others=True)


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]
