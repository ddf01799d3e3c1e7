"""One POST: to the address that was judged, bounded in time and size, and never further."""

import socket
from collections.abc import Iterator

import pytest

from infra.webhooks import send
from infra.webhooks.send import MAX_BODY_BYTES, post
from tests.support.receiver import Receiver, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


def test_a_name_that_leads_to_a_private_address_only_at_the_delivery_is_not_reached(receiver: Receiver) -> None:
    answer = post(receiver.url.replace("127.0.0.1", "localhost"), {}, "{}", allow_private=False)
    assert answer.status_code is None
    assert "not public" in (answer.error or "")
    assert receiver.received == []


def test_the_name_is_looked_up_once_and_the_connection_goes_where_it_led(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def counting(host: str, *arguments: object, **options: object) -> object:
        asked.append(host)
        assert host in {"hooks.example", "127.0.0.1"}
        return real("127.0.0.1", *arguments, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    answer = post(receiver.url.replace("127.0.0.1", "hooks.example") + "/a?b=1", {}, "{}", allow_private=True)
    assert answer.status_code == 200
    assert asked.count("hooks.example") == 1
    assert receiver.received[0].headers["host"].startswith("hooks.example:")
    assert receiver.received[0].path == "/a?b=1"


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    receiver.answers["/"] = [307]
    answer = post(receiver.url, {}, "{}", allow_private=True)
    assert (answer.status_code, answer.is_success) == (307, False)
    assert receiver.at("/elsewhere") == []


def test_only_the_beginning_of_an_answer_is_kept(receiver: Receiver) -> None:
    receiver.answer_body = b"\0" * (1024 * 1024)
    answer = post(receiver.url, {}, "{}", allow_private=True)
    assert answer.status_code == 200
    assert len(answer.body) == MAX_BODY_BYTES
    assert "\0" not in answer.body


def test_an_answer_that_does_not_come_in_time_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = post(f"http://127.0.0.1:{silent.getsockname()[1]}", {}, "{}", allow_private=True)
    assert answer.status_code is None
    assert "no whole answer" in (answer.error or "")


def test_nobody_there_is_a_failure_with_its_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    answer = post(f"http://127.0.0.1:{port}", {}, "{}", allow_private=True)
    assert answer.status_code is None
    assert "refused" in (answer.error or "")
