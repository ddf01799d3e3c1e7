"""Fetches jars with `jgo`. A module of its own, since its libraries are needed once for a user."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import requests
from jgo.config import GlobalSettings
from jgo.maven import MavenContext, PythonResolver
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from infra.local.errors import StackError
from infra.local.jars import Jar, is_whole

DOWNLOADS_AT_ONCE = 8
TIMEOUT_SECONDS = 30


def download(root: Path, jars: list[Jar], console: Console | None) -> None:
    """Fetch these jars into the repository at `root`, with one progress bar. Each one that stands there is verified.

    Raises StackError when the network is away or a checksum is wrong.
    """
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
    if not is_whole(root, jar):
        path.unlink(missing_ok=True)
        raise StackError(
            "local.checksum_wrong",
            f"{jar.path.name} is not the file that was pinned (SHA-256 {jar.sha256}); it was removed. Something "
            "between here and Maven Central changes downloads; try another network.",
        )
