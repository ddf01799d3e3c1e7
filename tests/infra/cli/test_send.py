"""`meterline send`: events of a file, to a server that may be away."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import send
from infra.cli.app import app
from infra.local.ports import choose
from tests.support.services import Services


def test_a_server_that_is_away_is_said_at_once_and_in_the_end_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "MAX_WAIT_SECONDS", 0)
    monkeypatch.setattr(send, "MAX_ATTEMPTS", 3)
    file = tmp_path / "events.ndjson"
    file.write_text('{"id":"1","type":"t","subject":"s"}\n')
    url = f"http://127.0.0.1:{choose(set())}"
    done = CliRunner().invoke(app, ["send", str(file), "--url", url, "--api-key", "mtr_x"])
    said = " ".join(done.stderr.split())
    assert done.exit_code == 1
    assert done.stdout == ""
    assert said.count("does not answer") == 3
    assert said.count(". Trying again") == 2
    assert "Not delivered in 3 attempts" in said
    assert said.endswith("Taken before: 0 of 1. Run it again: no event counts twice.")


def test_events_are_sent_packed_and_rejections_name_their_place_in_the_file(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "EVENTS_A_REQUEST", 40)
    events = [{"id": f"e{n}", "type": "t", "subject": "sü"} for n in range(100)]
    events[7] = {"id": "no-type", "subject": "s"}
    events[93] = dict(events[92])
    file = tmp_path / "events.json"
    file.write_text(json.dumps(events, indent=2))
    options = ["send", str(file), "--url", services.url, "--api-key", services.new_tenant_key(), "--json"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["accepted"], answer["duplicates"]) == (98, 1)
    assert [(each["index"], each["id"], each["code"]) for each in answer["rejected"]] == [
        (7, "no-type", "event.missing_field")
    ]


def test_a_refusal_that_waiting_does_not_change_ends_it(services: Services, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text('{"id":"1","type":"t","subject":"s"}\n')
    done = CliRunner().invoke(app, ["send", str(file), "--url", services.url, "--api-key", "mtr_x"])
    assert done.exit_code == 1
    assert done.stderr.startswith("auth.invalid_key")
    assert "Trying again" not in done.stderr


@pytest.mark.parametrize("text", ["[]", "", "\n \n"], ids=["array", "empty", "blank"])
def test_a_file_without_events_is_said_and_status_1(tmp_path: Path, text: str) -> None:
    file = tmp_path / "events.json"
    file.write_text(text)
    done = CliRunner().invoke(app, ["send", str(file), "--api-key", "mtr_x"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "nothing to send" in done.stderr


def test_one_copy_is_no_copies() -> None:
    assert send.to_table({"accepted": 1, "duplicates": 1, "rejected": []}).title == "1 accepted, 1 copy, 0 rejected"
    assert send.to_table({"accepted": 1, "duplicates": 1, "rejected": []}).box is None  # no empty frame below it
    assert send.to_table({"accepted": 0, "duplicates": 2, "rejected": []}).title == "0 accepted, 2 copies, 0 rejected"
