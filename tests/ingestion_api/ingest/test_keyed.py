"""`POST /v1/events` under an Idempotency-Key, on the running service."""

import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.services import Services

JSON = {"content-type": "application/json"}
GOOD = {"id": "1", "type": "t", "subject": "s"}


@pytest.fixture
def client(services: Services) -> Iterator[httpx2.Client]:
    """A client of a tenant of its own, so that keys are free."""
    with services.client(services.new_tenant_key()) as client:
        yield client


def post(client: httpx2.Client, body: Any, key: str, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/v1/events", content=content, headers=JSON | headers | {"idempotency-key": key})


def test_the_same_key_and_events_are_answered_as_the_first_time(client: httpx2.Client) -> None:
    first = post(client, [GOOD, GOOD, {}], "k")
    again = post(client, [GOOD, GOOD, {}], "k")
    assert (first.status_code, first.json()["accepted"], first.json()["duplicates"]) == (202, 1, 1)
    assert "idempotent-replayed" not in first.headers
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/json"


def test_events_that_are_packed_otherwise_are_the_same(client: httpx2.Client) -> None:
    body = json.dumps(GOOD).encode()
    post(client, body, "k")
    again = post(client, gzip.compress(body), "k", **{"content-encoding": "gzip"})
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (202, "true")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(GOOD | {"id": "2"}, {}, id="another event"),
        pytest.param(GOOD, {"content-type": "application/x-ndjson"}, id="another form"),
        pytest.param(GOOD, {"ce-id": "1", "ce-type": "t", "ce-subject": "s"}, id="data of an event in headers"),
    ],
)
def test_the_same_key_for_something_else_is_409_and_takes_nothing(
    client: httpx2.Client, body: Any, headers: dict[str, str]
) -> None:
    first = post(client, GOOD, "k")
    other = post(client, body, "k", **headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")
    assert post(client, GOOD, "k").content == first.content


def test_a_key_of_another_post_is_409(client: httpx2.Client) -> None:
    client.post("/v1/customers", json={"external_id": "acme"}, headers={"idempotency-key": "k"})
    assert post(client, GOOD, "k").json()["code"] == "idempotency.conflict"


@pytest.mark.parametrize(("body", "status"), [([], 422), ({"id": "1"}, 422), (b"{", 400)], ids=["none", "bad", "half"])
def test_what_was_said_of_the_events_is_kept(client: httpx2.Client, body: Any, status: int) -> None:
    first, again = post(client, body, "k"), post(client, body, "k")
    assert first.headers["content-type"] == again.headers["content-type"] == "application/problem+json"
    assert (first.status_code, again.status_code, again.content) == (status, status, first.content)
    assert first.json()["request_id"] == first.headers["x-request-id"]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert post(client, GOOD, "k").status_code == 409


def test_what_is_refused_before_its_events_are_looked_at_leaves_the_key_free(client: httpx2.Client) -> None:
    assert post(client, b"no gzip", "k", **{"content-encoding": "gzip"}).status_code == 400
    assert post(client, GOOD, "k").status_code == 202


@pytest.mark.parametrize("key", ["", "two words", "x" * 256], ids=["empty", "a space", "long"])
def test_a_key_that_can_not_be_kept_is_refused(client: httpx2.Client, key: str) -> None:
    answer = post(client, GOOD, key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency.invalid_key")


def test_a_key_belongs_to_its_tenant(services: Services, client: httpx2.Client) -> None:
    post(client, GOOD, "k")
    with services.client(services.new_tenant_key()) as other:
        answer = post(other, GOOD | {"id": "2"}, "k")
    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (202, False)


def test_requests_at_once_under_one_key_have_one_answer(client: httpx2.Client) -> None:
    answers: list[httpx2.Response] = []
    barrier = threading.Barrier(6)

    def send() -> None:
        barrier.wait()
        answers.append(post(client, [GOOD], "k", **{"x-request-id": threading.current_thread().name}))

    threads = [threading.Thread(target=send, name=f"r-{number}") for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
