"""The broker's store can stand anywhere."""

from pathlib import Path

import pytest

from infra.local import kafka, ports
from infra.settings import Settings


def test_the_store_is_laid_out_in_a_folder_of_any_name_in_any_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    data_dir = tmp_path / "Zähler – 计量 \U0001f4b6 a\\b"
    data_dir.mkdir()
    port = ports.choose(set())
    kafka.component(data_dir, Settings().cache_dir.expanduser(), port, ports.choose({port})).prepare()
    assert (data_dir / "kafka" / "meta.properties").exists()
