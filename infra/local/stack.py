"""The whole stack: every server whose address the settings leave empty is started, kept alive, stopped at the end."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from infra.local import clickhouse, kafka, kafka_training, leftovers, ports, postgres, record, temporal
from infra.local.component import Component
from infra.local.record import Record
from infra.local.supervisor import Report, Supervisor
from infra.settings import Settings

START_LIMIT_SECONDS = 600  # the first start downloads; a server that can't start gives up long before
PORT_NAMES = ("postgres", "clickhouse", "kafka", "kafka_controller", "temporal", "temporal_ui")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running stack. `settings` has every address filled in."""

    settings: Settings
    data_dir: Path
    supervisor: Supervisor
    record: Record

    def environment(self) -> dict[str, str]:
        """For child processes: the addresses, and every other setting that was given, also one of a `.env` file, which
        they don't see from the directory they run in."""
        return environment_of(self.settings)

    def note(self, **addresses: str) -> None:
        """Write further addresses down, e.g. `api_url`, for other commands to find."""
        self.record.addresses.update(addresses)
        record.write(self.data_dir, self.record)


@contextmanager
def running_stack(settings: Settings, report: Report, console: Console) -> Generator[Stack]:
    """Start what the settings leave empty, in the directory they name, and stop it when the block ends.

    Inside the block every started server has answered a real question, and comes back when it dies. `report` gets one
    line a change, from several threads; `console` shows the progress of a first download.
    Raises StackError when the directory is in use or a server can't be started.
    """
    data_dir = record.resolve_data_dir(settings)
    with record.own(data_dir):
        if os.geteuid() == 0:
            data_dir.chmod(0o711)  # PostgreSQL's own user passes through
        for name in leftovers.end(data_dir):
            report(f"ended {name}, which a killed stack left behind")
        chosen = _choose_ports(record.read(data_dir))
        components = _components(settings, data_dir, chosen, report, console)
        supervisor = Supervisor(data_dir, report)
        training = None
        try:
            for component in components.values():
                supervisor.start(component)
            versions = supervisor.wait_until_ready([c.name for c in components.values()], START_LIMIT_SECONDS)
            versions |= {"kafka": kafka.version()} if "kafka" in versions else {}
            addresses = {setting: component.address for setting, component in components.items()}
            if "temporal_address" in addresses:
                addresses["temporal_ui"] = f"http://{ports.LOOPBACK}:{chosen['temporal_ui']}"
            written = Record(process_id=os.getpid(), addresses=addresses, ports=chosen, versions=versions)
            record.write(data_dir, written)
            filled = record.with_addresses(settings, written)
            if "kafka_bootstrap" in components:
                training = kafka_training.start(data_dir, _cache_dir(settings))
            yield Stack(settings=filled, data_dir=data_dir, supervisor=supervisor, record=written)
        finally:
            supervisor.close()
            if training:
                training.wait()  # the warden has ended it


def environment_of(settings: Settings) -> dict[str, str]:
    """The settings that were given, or filled in, as `METERLINE_…` variables. Paths as they are seen from here."""
    given = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    return {
        f"METERLINE_{name.upper()}": str(value.expanduser().resolve() if isinstance(value, Path) else value)
        for name, value in given.items()
    }


def _choose_ports(last: Record | None) -> dict[str, int]:
    """The ports of the last run where they are free, else others."""
    chosen: dict[str, int] = {}
    for name in PORT_NAMES:
        before = last.ports.get(name) if last else None
        chosen[name] = before if before and ports.is_free(before) else ports.choose(set(chosen.values()))
    return chosen


def _components(
    settings: Settings, data_dir: Path, chosen: dict[str, int], report: Report, console: Console
) -> dict[str, Component]:
    """The components to start, each under the name of the setting that would replace it."""
    components: dict[str, Component] = {}
    password = record.secret(data_dir, record.PASSWORD_FILE)
    if not settings.kafka_bootstrap:
        components["kafka_bootstrap"] = kafka.component(
            data_dir, _cache_dir(settings), chosen["kafka"], chosen["kafka_controller"], console
        )
    if not settings.postgres_dsn:
        components["postgres_dsn"] = postgres.component(data_dir, chosen["postgres"], password, report)
    if not settings.clickhouse_url:
        components["clickhouse_url"] = clickhouse.component(data_dir, chosen["clickhouse"], password)
    if not settings.temporal_address:
        components["temporal_address"] = temporal.component(data_dir, chosen["temporal"], chosen["temporal_ui"])
    return components


def _cache_dir(settings: Settings) -> Path:
    return settings.cache_dir.expanduser().resolve()
