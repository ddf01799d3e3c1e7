"""What a stack writes down in its data directory: who owns it, and where its servers listen."""

import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from infra.local.errors import StackError
from infra.settings import Settings

RECORD_NAME = "stack.json"
PASSWORD_FILE = "stack.password"  # noqa: S105 - the name of a file
LOCK_NAME = "stack.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The stack as it last ran: addresses as in the settings, ports by name (kept for the next start), versions."""

    process_id: int
    addresses: dict[str, str] = field(default_factory=dict[str, str])
    ports: dict[str, int] = field(default_factory=dict[str, int])
    versions: dict[str, str] = field(default_factory=dict[str, str])


def secret(data_dir: Path, name: str, *, prefix: str = "", given: str = "") -> str:
    """A secret of this directory: what was given now, or last, or else made when it is first asked for. Kept in a file
    that only its owner reads."""
    path = data_dir / name
    if given or not path.exists():
        _replace(path, given or prefix + secrets.token_hex(16))
    return path.read_text(encoding="utf-8")


def resolve_data_dir(settings: Settings) -> Path:
    """The data directory as an absolute path."""
    return settings.data_dir.expanduser().resolve()


def read(data_dir: Path) -> Record | None:
    """The record of the last run; None when there was none, or it can't be read."""
    try:
        return Record(**json.loads((data_dir / RECORD_NAME).read_text(encoding="utf-8")))
    except (FileNotFoundError, PermissionError, ValueError, TypeError):
        return None


def write(data_dir: Path, record: Record) -> None:
    """Replace the record in one step."""
    _replace(data_dir / RECORD_NAME, json.dumps(asdict(record), indent=2))


def running(data_dir: Path) -> Record | None:
    """The record of the stack that runs in this directory now; None when none does."""
    try:
        with (data_dir / LOCK_NAME).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read(data_dir)
    except (FileNotFoundError, PermissionError):
        return None
    return None


@contextmanager
def own(data_dir: Path) -> Generator[None]:
    """Hold the directory for this process; the kernel lets go of it when the process ends, however it ends.

    Raises StackError when another stack has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = read(data_dir)
            raise StackError(
                "local.data_dir_in_use",
                f"Another stack{f' (process {owner.process_id})' if owner else ''} uses {data_dir}. Stop it, or name "
                "another directory with --data-dir or METERLINE_DATA_DIR.",
            ) from None
        yield


def with_addresses(settings: Settings, record: Record | None) -> Settings:
    """Settings whose empty addresses are filled in from a running stack."""
    if record is None:
        return settings
    missing = {name: value for name, value in record.addresses.items() if hasattr(settings, name)}
    return settings.model_copy(update={name: value for name, value in missing.items() if not getattr(settings, name)})


def _replace(path: Path, text: str) -> None:
    """Write a file that only its owner reads, in one step: a reader sees the old text or the new."""
    fresh = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
