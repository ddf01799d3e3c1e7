"""The jars of Apache Kafka: named one by one with size and SHA-256 in `kafka_jars.lock`, fetched once for the user.

The list was resolved once from `kafka_2.13`, `kafka-clients` (named, else the resolver takes 3.9.1) and
`log4j-slf4j-impl` of one Kafka version; nothing is resolved at run time, so nothing can drift.
"""

import fcntl
import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One pinned artifact. `path` is relative to a Maven repository."""

    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        folder = Path(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"


def pinned() -> list[Jar]:
    """All jars of the broker, as pinned."""
    jars: list[Jar] = []
    for line in (files("infra.local") / "kafka_jars.lock").read_text(encoding="ascii").splitlines():
        coordinate, size, sha256 = line.split()
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group=group, artifact=artifact, version=version, size_bytes=int(size), sha256=sha256))
    return jars


def repository(cache_dir: Path) -> Path:
    """Where the jars lie, in the layout of a Maven repository."""
    return cache_dir / "maven"


def fetch(cache_dir: Path, console: Console | None) -> list[Path]:
    """All jars, verified; missing or damaged ones are downloaded, with a progress bar on `console`.

    Processes that come at once wait for each other. Raises StackError when the network is away or a checksum is wrong.
    """
    root = repository(cache_dir)
    jars = pinned()
    if not all(is_whole(root, jar) for jar in jars):  # a complete cache may be read-only
        root.mkdir(parents=True, exist_ok=True)
        with _lock(cache_dir / "maven.lock"):
            missing = [jar for jar in jars if not is_whole(root, jar)]
            if missing:
                import_module("infra.local.jar_download").download(root, missing, console)
    return [root / jar.path for jar in jars]


def is_whole(root: Path, jar: Jar) -> bool:
    path = root / jar.path
    if not path.exists() or path.stat().st_size != jar.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


@contextmanager
def _lock(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
