"""The jars of Apache Kafka: named one by one with size and SHA-256 in `kafka_jars.lock`, fetched once for the user.

The list was resolved once from `kafka_2.13`, `kafka-clients` (named, else the resolver takes 3.9.1) and
`log4j-slf4j-impl` of one Kafka version; nothing is resolved at run time, so nothing can drift.
"""

import fcntl
import hashlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext, PythonResolver
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from infra.local.errors import StackError

DOWNLOADS_AT_ONCE = 8
TIMEOUT_SECONDS = 30


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
    if not all(_is_whole(root, jar) for jar in jars):  # a complete cache may be read-only
        root.mkdir(parents=True, exist_ok=True)
        with _lock(cache_dir / "maven.lock"):
            missing = [jar for jar in jars if not _is_whole(root, jar)]
            if missing:
                _download(root, missing, console)
    return [root / jar.path for jar in jars]


def _is_whole(root: Path, jar: Jar) -> bool:
    path = root / jar.path
    if not path.exists() or path.stat().st_size != jar.size_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def _download(root: Path, jars: list[Jar], console: Console | None) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        task = progress.add_task("Fetching Apache Kafka (once)", total=sum(jar.size_bytes for jar in jars))

        @contextmanager
        def count(name: str, size_bytes: int) -> Generator[Callable[[int], None]]:  # noqa: ARG001 - jgo calls it so
            yield lambda received_bytes: progress.advance(task, received_bytes)

        context = MavenContext(
            resolver=PythonResolver(progress_callback=count),
            repo_cache=root,
            remote_repos=GlobalSettings.load().repositories or None,  # a mirror, where a company has one
            timeout=TIMEOUT_SECONDS,
        )
        list(pool.map(partial(_download_one, root, context), jars))


def _download_one(root: Path, context: MavenContext, jar: Jar) -> None:
    path = root / jar.path
    path.unlink(missing_ok=True)  # what a killed download left
    try:
        context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (requests.RequestException, RuntimeError, OSError) as error:
        path.unlink(missing_ok=True)
        raise StackError(
            "local.download_failed",
            f"{jar.path.name} could not be fetched: {type(error).__name__}. Apache Kafka is fetched once, from Maven "
            "Central; go online and start again, or set METERLINE_KAFKA_BOOTSTRAP to a broker that you have.",
        ) from error
    if not _is_whole(root, jar):
        path.unlink(missing_ok=True)
        raise StackError(
            "local.checksum_wrong",
            f"{jar.path.name} is not the file that was pinned (SHA-256 {jar.sha256}); it was removed. Something "
            "between here and Maven Central changes downloads; try another network.",
        )


@contextmanager
def _lock(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
