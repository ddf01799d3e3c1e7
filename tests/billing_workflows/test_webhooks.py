"""Webhooks through every service: signed, tried again, told once, and never to where they must not go."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.support.receiver import Receiver, running_receiver
from tests.support.services import Services

WAIT_SECONDS = 40


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def http(services: Services) -> Iterator[httpx2.Client]:
    with services.client(services.new_tenant_key()) as client:
        yield client


def wait_for(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.05)
    return found


def call(client: httpx2.Client, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def listen(client: httpx2.Client, receiver: Receiver, path: str, *events: str) -> dict[str, Any]:
    body = {"url": f"{receiver.url}{path}", "events": list(events)}
    return call(client, "POST", "/v1/webhook_endpoints", body, status=201)


def log_of(client: httpx2.Client, endpoint: dict[str, Any], **params: str) -> list[dict[str, Any]]:
    return client.get(f"/v1/webhook_endpoints/{endpoint['id']}/deliveries", params=params).json()["data"]


def new_customer(client: httpx2.Client, name: str) -> dict[str, Any]:
    return call(client, "POST", "/v1/customers", {"external_id": name}, status=201)


def test_an_event_is_told_signed_and_only_to_who_listened_before(http: httpx2.Client, receiver: Receiver) -> None:
    endpoint = listen(http, receiver, "/signed", "customer.*")
    other = listen(http, receiver, "/other", "invoice.*", "customer.updated")
    customer = new_customer(http, "acme")
    request = wait_for(lambda: receiver.at("/signed"), "the event is told")[0]
    body = Webhook(endpoint["secret"]).verify(request.body, request.headers)
    assert (body["type"], body["data"]["id"]) == ("customer.created", customer["id"])
    assert body["id"] == request.headers["webhook-id"]
    assert body["timestamp"]
    late = listen(http, receiver, "/late", "customer.*")
    new_customer(http, "umbrella")
    wait_for(lambda: len(receiver.at("/signed")) == 2 and receiver.at("/late"), "the second event is told")
    assert [delivery["type"] for delivery in log_of(http, late)] == ["customer.created"]
    assert len(receiver.at("/late")) == 1
    assert log_of(http, other) == []
    delivery = wait_for(lambda: log_of(http, endpoint, status="succeeded")[1:], "both are written down")[0]
    assert delivery["event"] == body["id"]
    assert (delivery["attempts"][0]["status_code"], delivery["attempts"][0]["body"]) == (200, "taken")


def test_a_failure_is_tried_again_under_the_same_id_with_the_same_body(http: httpx2.Client, receiver: Receiver) -> None:
    receiver.answers["/flaky"] = [500, 302]
    endpoint = listen(http, receiver, "/flaky", "customer.created")
    new_customer(http, "acme")
    failed = wait_for(lambda: [d for d in log_of(http, endpoint) if d["attempt_count"]], "the first attempt")[0]
    assert (failed["status"], failed["attempts"][0]["status_code"]) == ("pending", 500)
    assert failed["next_attempt_at"] > failed["attempts"][0]["attempted_at"]
    wait_for(lambda: log_of(http, endpoint)[0]["attempt_count"] == 2, "it is tried again by itself")
    again = log_of(http, endpoint)[0]
    assert (again["status"], again["attempts"][1]["status_code"]) == ("pending", 302), "a redirect is no success"
    call(http, "POST", f"/v1/webhook_deliveries/{again['id']}/resend", {})
    done = wait_for(lambda: log_of(http, endpoint, status="succeeded"), "it is sent again at will")[0]
    assert [attempt["status_code"] for attempt in done["attempts"]] == [500, 302, 200]
    requests = receiver.at("/flaky")
    assert len({(request.headers["webhook-id"], request.body) for request in requests}) == 1
    assert receiver.at("/elsewhere") == []
    for request in requests:
        Webhook(endpoint["secret"]).verify(request.body, request.headers)


def test_who_says_gone_is_told_no_more_until_enabled(http: httpx2.Client, receiver: Receiver) -> None:
    watch = listen(http, receiver, "/watch", "webhook_endpoint.disabled")
    receiver.answers["/gone"] = [410]
    endpoint = listen(http, receiver, "/gone", "customer.created")
    new_customer(http, "acme")
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    wait_for(lambda: call(http, "GET", path)["disabled_reason"] == "gone", "it is disabled")
    told = wait_for(lambda: receiver.at("/watch"), "that is told")[0]
    assert Webhook(watch["secret"]).verify(told.body, told.headers)["data"]["disabled_reason"] == "gone"
    delivery = log_of(http, endpoint)[0]
    assert delivery["status"] == "failed"
    assert call(http, "POST", f"{path}/test", {}, status=409)["code"] == "webhook_endpoint.disabled"
    resend = f"/v1/webhook_deliveries/{delivery['id']}/resend"
    assert call(http, "POST", resend, {}, status=409)["code"] == "webhook_endpoint.disabled"
    assert call(http, "PATCH", path, {"disabled": False})["disabled_at"] is None
    call(http, "POST", resend, {})
    wait_for(lambda: log_of(http, endpoint, status="succeeded"), "it is sent again")


def test_while_a_secret_rotates_both_sign(http: httpx2.Client, receiver: Receiver) -> None:
    endpoint = listen(http, receiver, "/rotating", "customer.created")
    path = f"/v1/webhook_endpoints/{endpoint['id']}"
    rotated = call(http, "POST", f"{path}/rotate_secret", {})
    assert rotated["secret"] != endpoint["secret"]
    call(http, "POST", f"{path}/test", {}, status=201)
    first = wait_for(lambda: receiver.at("/rotating"), "the test comes")[0]
    for secret in (endpoint["secret"], rotated["secret"]):
        assert Webhook(secret).verify(first.body, first.headers)["type"] == "webhook_endpoint.test"
    last = call(http, "POST", f"{path}/rotate_secret", {"old_secret_seconds": 0})
    call(http, "POST", f"{path}/test", {}, status=201)
    second = wait_for(lambda: receiver.at("/rotating")[1:], "the second test comes")[0]
    assert Webhook(last["secret"]).verify(second.body, second.headers)
    assert len(second.headers["webhook-signature"].split(" ")) == 1
