"""What is fetched is what was pinned, or it is not there."""

import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from infra.local import jars
from infra.local.errors import StackError
from infra.local.jar_download import download
from infra.local.jars import Jar, is_whole

CONTENT = b"a jar"
QUIET = Console(quiet=True)


class Repository(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a Maven repository that is served on loopback, and that jgo is told to use."""
    folder = tmp_path / "remote"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Repository, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _use(monkeypatch, tmp_path, f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


def _use(monkeypatch: pytest.MonkeyPatch, home: Path, url: str) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    configuration = home / ".config" / "jgo.conf"
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text(f"[repositories]\nhere = {url}\n", encoding="utf-8")


def jar(content: bytes = CONTENT) -> Jar:
    return Jar(
        group="org.example", artifact="thing", version="1", size_bytes=len(content), sha256=sha256(content).hexdigest()
    )


def publish(remote: Path, content: bytes) -> None:
    path = remote / jar().path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_jar_is_fetched_into_the_repository(remote: Path, tmp_path: Path) -> None:
    publish(remote, CONTENT)
    download(tmp_path / "cache", [jar()], QUIET)
    assert is_whole(tmp_path / "cache", jar())


def test_what_a_killed_download_left_is_fetched_again(remote: Path, tmp_path: Path) -> None:
    publish(remote, CONTENT)
    broken = tmp_path / "cache" / jar().path
    broken.parent.mkdir(parents=True)
    broken.write_bytes(CONTENT[:2])
    assert not is_whole(tmp_path / "cache", jar())
    download(tmp_path / "cache", [jar()], QUIET)
    assert is_whole(tmp_path / "cache", jar())


def test_a_jar_with_another_checksum_is_refused_and_removed(remote: Path, tmp_path: Path) -> None:
    publish(remote, b"a lie")
    with pytest.raises(StackError) as caught:
        download(tmp_path / "cache", [jar()], QUIET)
    assert caught.value.code == "local.checksum_wrong"
    assert not (tmp_path / "cache" / jar().path).exists()


def test_a_jar_changed_on_disk_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / jar().path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"b jar")
    assert not is_whole(tmp_path, jar())


def test_no_network_is_told_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, tmp_path, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(StackError) as caught:
        download(tmp_path / "cache", [jar()], QUIET)
    assert caught.value.code == "local.download_failed"
    assert "METERLINE_KAFKA_BOOTSTRAP" in caught.value.detail


def test_the_clients_have_the_version_of_the_broker() -> None:
    """Left to itself the resolver picks an older client, with which the broker dies at start."""
    versions = {jar.artifact: jar.version for jar in jars.pinned()}
    assert versions["kafka-clients"] == versions["kafka_2.13"]
    assert versions["kafka_2.13"].startswith("4.1.")
    assert len(versions) == len(jars.pinned())
