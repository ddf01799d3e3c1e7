"""`POST /v1/events` as its users and its enemies send to it, on the running service."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import zstandard

from schemas.events import MAX_EVENT_BYTES, MAX_EVENTS_A_REQUEST, MAX_REQUEST_BYTES
from tests.support.services import Services

JSON = {"content-type": "application/json"}
BINARY = {
    "content-type": "application/json", "ce-specversion": "1.0", "ce-id": "b", "ce-type": "t", "ce-source": "s",
    "ce-subject": "%C3%A4", "ce-traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[httpx2.Client]:
    """A client of a tenant of its own."""
    with services.client(services.new_tenant_key()) as client:
        yield client


def event(event_id: str = "e", **fields: Any) -> dict[str, Any]:
    return {"id": event_id, "type": "t", "subject": "s"} | fields


def zstd(body: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(body)


ONE = json.dumps(event()).encode()
TWO = json.dumps([event("1"), event("2")]).encode()
LINES = b"\n".join(json.dumps(event(f"{n}")).encode() for n in range(2))


@pytest.mark.parametrize(
    ("headers", "body", "accepted"),
    [
        pytest.param(JSON, ONE, 1, id="one"),
        pytest.param(JSON, TWO, 2, id="array"),
        pytest.param({}, ONE, 1, id="no content type"),
        pytest.param({"content-type": "application/cloudevents+json; charset=UTF-8"}, ONE, 1, id="structured"),
        pytest.param({"content-type": "application/cloudevents-batch+json"}, TWO, 2, id="batch"),
        pytest.param({"content-type": 'APPLICATION/JSON;charset="utf-8"'}, ONE, 1, id="upper case and quotes"),
        pytest.param({"content-type": "application/x-ndjson"}, LINES, 2, id="lines"),
        pytest.param({"content-type": "application/x-ndjson", "content-encoding": "gzip"}, gzip.compress(LINES), 2,
                     id="lines in gzip"),
        pytest.param(JSON | {"content-encoding": "ZSTD"}, zstd(TWO), 2, id="array in zstd"),
        pytest.param(JSON | {"content-encoding": "gzip"}, gzip.compress(ONE), 1, id="one in gzip"),
        pytest.param(BINARY, b'{"tokens": 1}', 1, id="binary"),
        pytest.param(BINARY | {"content-encoding": "zstd"}, zstd(b'{"tokens": 1}'), 1, id="binary in zstd"),
        pytest.param(BINARY, b"", 1, id="binary without data"),
        pytest.param(JSON, b"\xef\xbb\xbf" + TWO, 2, id="byte order mark"),
        pytest.param(JSON, b"\xef\xbb\xbf" + ONE, 1, id="byte order mark before one"),
        pytest.param(JSON, b" \r\n\t" + ONE + b"\n", 1, id="blanks"),
        pytest.param(JSON, b'{"id":"x","id":"y","type":"t","subject":"s","data":{"a":1,"a":2}}', 1, id="keys twice"),
        pytest.param(JSON, json.dumps(event("é\U0001f600\u0301")).encode(), 1, id="escaped unicode"),
        pytest.param(JSON, json.dumps(event("é\U0001f600\u0301"), ensure_ascii=False).encode(), 1, id="unicode"),
        pytest.param(JSON, json.dumps(event(data={"nul": "\0"})).encode(), 1, id="NUL in data"),
        pytest.param(JSON, json.dumps(event(time="2026-01-01t00:00:00.5z")).encode(), 1, id="lower-case t and z"),
        pytest.param(JSON, json.dumps(event(source=None, time=None, data=None)).encode(), 1, id="nulls"),
        pytest.param(BINARY, b"null", 1, id="binary null"),
    ],
)  # fmt: skip
def test_every_form_is_read(client: httpx2.Client, headers: dict[str, str], body: bytes, accepted: int) -> None:
    answer = client.post("/v1/events", headers=headers, content=body)
    assert (answer.status_code, answer.json()) == (202, {"accepted": accepted, "duplicates": 0, "rejected": []})


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


BAD = {
    "no zone": (event("bad", time="2026-01-01T00:00:00"), "event.invalid_time"),
    "leap second": (event("bad", time="2016-12-31T23:59:60Z"), "event.invalid_time"),
    "number": (event("bad", time=1_700_000_000), "event.invalid_time"),
    "NUL in id": (event("bad\0"), "event.invalid_field"),
    "too large": (event("bad", data={"pad": "x" * MAX_EVENT_BYTES}), "event.too_large"),
    "deep": (event("bad", data={"a": json.loads("[" * 80 + "]" * 80)}), "event.invalid_data"),
    "data is text": (event("bad", data="{}"), "event.invalid_data"),
    "long number": (event("bad", data={"a": 10**4000}), "event.invalid_data"),
    "no subject": ({"id": "bad", "type": "t"}, "event.missing_field"),
    "id is a number": (event() | {"id": 7}, "event.invalid_field"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("neighbours", [0, 2, 40])
def test_a_bad_event_is_named_and_its_neighbours_count(client: httpx2.Client, bad: str, neighbours: int) -> None:
    sent, code = BAD[bad]
    events = [event(f"{bad}-{n}") for n in range(neighbours)]
    answer = client.post("/v1/events", json=[*events, sent] if neighbours else sent)
    body = answer.json()
    assert answer.status_code == (202 if neighbours else 422)
    assert [(each["index"], each["code"]) for each in body["rejected"]] == [(neighbours, code)]
    if neighbours:
        assert (body["accepted"], body["duplicates"]) == (neighbours, 0)
    else:
        assert body["code"] == "event.all_rejected"


def test_more_than_five_minutes_ahead_is_the_future(client: httpx2.Client) -> None:
    events = [event("a", time=ahead(290)), event("b", time=ahead(330))]
    body = client.post("/v1/events", json=events).json()
    assert [(each["index"], each["code"]) for each in body["rejected"]] == [(1, "event.time_in_future")]
    assert client.post("/v1/events", json=events[0]).status_code == 202
    assert client.post("/v1/events", json=events[1]).json()["rejected"][0]["code"] == "event.time_in_future"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        pytest.param(JSON, b"", 400, "request.invalid_json", id="nothing"),
        pytest.param(JSON, b"[]", 422, "event.all_rejected", id="empty array"),
        pytest.param({"content-type": "application/x-ndjson"}, b"\n\n", 422, "event.all_rejected", id="blank lines"),
        pytest.param(JSON, b"[" * 100_000, 400, "request.invalid_json", id="brackets"),
        pytest.param(JSON, b'{"a":' * 100_000, 422, "event.all_rejected", id="braces"),
        pytest.param(JSON, ONE + ONE, 400, "request.invalid_json", id="two objects"),
        pytest.param(JSON, ONE.decode().encode("utf-16"), 400, "request.invalid_json", id="UTF-16"),
        pytest.param({"content-type": "text/plain"}, ONE, 415, "request.unsupported_media_type", id="text"),
        pytest.param(BINARY | {"content-type": "text/plain"}, b"{}", 415, "request.unsupported_media_type",
                     id="binary text"),
        pytest.param(BINARY, b"[1]", 422, "event.all_rejected", id="binary array"),
        pytest.param({"ce-id": "1"} | JSON, b"{}", 422, "event.all_rejected", id="binary without a type"),
        pytest.param(BINARY, b"{", 400, "request.invalid_json", id="binary that ends too early"),
        pytest.param(BINARY | {"ce-subject": "%ff"}, b"{}", 400, "request.invalid_header", id="binary header"),
        pytest.param(JSON | {"content-encoding": "br"}, ONE, 415, "request.unsupported_media_type", id="brotli"),
        pytest.param(JSON | {"content-encoding": "zstd"}, ONE, 400, "request.invalid_encoding", id="no zstd"),
    ],
)  # fmt: skip
def test_what_can_not_be_taken_is_refused_with_its_code(
    client: httpx2.Client, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/events", headers=headers, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_in_binary_mode_a_refused_type_is_told_that_data_is_json(client: httpx2.Client) -> None:
    answer = client.post("/v1/events", headers=BINARY | {"content-type": "text/plain"}, content=b"5")
    assert "binary mode" in answer.json()["detail"]
    assert "send application/json." in answer.json()["detail"]


def test_ten_thousand_events_and_sixteen_mebibytes_are_the_most(client: httpx2.Client) -> None:
    events = [event(f"many-{n}") for n in range(MAX_EVENTS_A_REQUEST)]
    body = client.post("/v1/events", json=[*events[:-1], events[0]]).json()
    assert (body["accepted"], body["duplicates"]) == (MAX_EVENTS_A_REQUEST - 1, 1)
    answer = client.post("/v1/events", json=[*events, event("more")])
    assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")
    for packed in (False, True):
        full = TWO + b" " * (MAX_REQUEST_BYTES - len(TWO))
        headers = JSON | ({"content-encoding": "zstd"} if packed else {})
        answer = client.post("/v1/events", headers=headers, content=zstd(full) if packed else full)
        assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
        over = full + b" "
        answer = client.post("/v1/events", headers=headers, content=zstd(over) if packed else over)
        assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")


def test_copies_of_other_sources_or_written_otherwise_are_told_apart(client: httpx2.Client) -> None:
    events = [event("c"), event("c", source="api"), event("c", source="web"), event("c", data={"a": 1}), event("C")]
    body = client.post("/v1/events", json=events).json()
    assert body == {"accepted": 3, "duplicates": 2, "rejected": []}
