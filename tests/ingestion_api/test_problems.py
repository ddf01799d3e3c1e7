import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from infra.clickhouse.client import connect
from infra.settings import Settings
from ingestion_api import problems
from ingestion_api.routing import MAX_BODY_BYTES, MAX_JSON_DEPTH
from tests.support.api import Api

CUSTOMER = {"external_id": "acme"}
FIELDS = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


def test_a_problem_has_all_its_members(api: Api) -> None:
    response = api.http.get("/v1/customers/nobody")
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == FIELDS
    assert problem["code"] == "customer.not_found"
    assert problem["status"] == response.status_code == 404
    assert problem["instance"] == "/v1/customers/nobody"
    assert problem["type"] == "urn:meterline:problem:customer.not_found"
    assert problem["request_id"] == response.headers["x-request-id"]


def test_a_sane_request_id_is_taken_over_and_another_one_is_not(api: Api) -> None:
    mine = api.http.get("/v1/customers", headers={"x-request-id": "my-id.1"})
    assert mine.headers["x-request-id"] == "my-id.1"
    for given in ("two words", "x" * 129, "<script>"):
        made = api.http.get("/v1/customers", headers={"x-request-id": given}).headers["x-request-id"]
        assert made.startswith("req_")


def test_an_unknown_path_is_404_and_a_wrong_method_405(api: Api) -> None:
    for path in ("/v1/nothing", "/nothing", "/v1/customers/a/b/c"):
        response = api.http.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "request.not_found")
    response = api.http.delete("/v1/customers")
    assert (response.status_code, response.json()["code"]) == (405, "request.method_not_allowed")
    assert "POST" in response.headers["allow"] or "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"external_id": NaN}',
        b'{"external_id": "\\ud800"}',
        b'{"external_id": "\xed\xa0\x80"}',
        b"\xff\xfe{}",
        b'{"external_id": 1' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"metadata":' * (MAX_JSON_DEPTH + 1) + b"1" + b"}" * (MAX_JSON_DEPTH + 1),
    ],
    ids=["cut", "text", "nan", "surrogate", "raw surrogate", "not utf-8", "endless number", "100,000 deep", "too deep"],
)
def test_a_body_that_can_not_be_read_is_400(api: Api, body: bytes) -> None:
    response = api.http.post("/v1/customers", content=body)
    assert (response.status_code, response.json()["code"]) == (400, "request.invalid_json")


def test_a_body_beyond_the_limit_is_413_whether_or_not_its_length_is_said(api: Api) -> None:
    huge = json.dumps({"external_id": "x" * MAX_BODY_BYTES}).encode()

    def chunks():
        for start in range(0, len(huge), 65_536):
            yield huge[start : start + 65_536]

    for content in (huge, chunks()):
        response = api.http.post("/v1/customers", content=content)
        assert (response.status_code, response.json()["code"]) == (413, "request.too_large")


def test_a_body_needs_no_content_type(api: Api) -> None:
    response = api.http.post(
        "/v1/customers",
        content=b'{"external_id": "acme"}',
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 201


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"text"', b"null", b"true"])
def test_a_body_that_is_no_object_is_422(api: Api, body: bytes) -> None:
    response = api.http.post("/v1/customers", content=body)
    assert response.status_code == 422
    assert response.json()["errors"]


def test_an_unknown_field_is_named_whatever_else_is_wrong(api: Api) -> None:
    problem = api.post("/v1/customers", {"nmae": "Acme", "currency": 5}, status=422)
    assert problem["code"] == "request.unknown_field"
    pointers = {(error["pointer"], error["code"]) for error in problem["errors"]}
    assert pointers == {
        ("/nmae", "request.unknown_field"),
        ("/currency", "request.invalid_field"),
        ("/external_id", "request.missing_field"),
    }


def test_a_list_that_is_too_short_is_told_in_words_of_the_api(api: Api) -> None:
    problem = api.post("/v1/webhook_endpoints", {"url": "https://example.com/", "events": []}, status=422)
    assert problem["errors"] == [
        {
            "pointer": "/events",
            "code": "request.invalid_field",
            "detail": "List should have at least 1 item, not 0",
        }
    ]


def test_a_pointer_escapes_what_the_sender_wrote(api: Api) -> None:
    problem = api.post("/v1/customers", {**CUSTOMER, "a/b~c": 1}, status=422)
    assert problem["errors"][0]["pointer"] == "/a~1b~0c"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"external_id": "a\0b"}, "/external_id"),
        ({**CUSTOMER, "subjects": ["fine", "\0"]}, "/subjects/1"),
        ({**CUSTOMER, "metadata": {"key": "\0"}}, "/metadata/key"),
        ({**CUSTOMER, "metadata": {"\0": "value"}}, "/metadata"),
    ],
)
def test_a_nul_character_is_422_at_its_place(api: Api, body: object, pointer: str) -> None:
    problem = api.post("/v1/customers", body, status=422)
    assert problem["code"] == "request.invalid_field"
    assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "path", ["/v1/customers/a%00b", "/v1/meters/%00", "/v1/plans/%00/versions", "/v1/customers/%00/entitlements"]
)
def test_a_nul_in_a_path_names_nothing(api: Api, path: str) -> None:
    assert api.get(path, status=404)["code"] == "request.not_found"


@pytest.mark.parametrize("query", ["external_id=%00", "starting_after=cus_%00", "limit=0", "limit=101", "limit=x"])
def test_a_bad_parameter_is_422_and_named(api: Api, query: str) -> None:
    problem = api.get(f"/v1/customers?{query}", status=422)
    assert problem["errors"][0]["pointer"] == "/" + query.partition("=")[0]


def test_a_crash_is_a_plain_500_that_says_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("infra.postgres.customers.list_customers", crash)
    response = api.http.get("/v1/customers")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "internal"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert "secret" not in response.text


def test_a_store_that_is_away_is_503_with_retry_after(operator: Api) -> None:
    from infra.postgres.pool import Database

    context = operator.http.app.state.context
    away = Database(operator.settings.postgres_dsn)
    away.close()
    kept = context.database
    operator.get("/v1/customers")
    object.__setattr__(context, "database", away)
    try:
        response = operator.http.get("/v1/customers")
    finally:
        object.__setattr__(context, "database", kept)
    assert (response.status_code, response.json()["code"]) == (503, "store.unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", ["/v1/usage?meter=calls", "/v1/events", "/v1/events/1"])
def test_clickhouse_that_is_away_is_503_with_retry_after(
    operator: Api, api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    api.post("/v1/meters", {"key": "calls", "event_type": "call", "aggregation": "count"})
    backend = operator.http.app.state.context.clickhouse._backend  # its address is no setting of a client in use
    monkeypatch.setattr(backend, "_base_url", "http://127.0.0.1:9/")
    response = api.http.get(path)
    assert (response.status_code, response.json()["code"]) == (503, "store.unavailable")
    assert int(response.headers["retry-after"]) >= 1


def test_a_client_that_hangs_up_is_no_crash(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/customers",
        "raw_path": b"/v1/customers",
        "query_string": b"",
        "headers": [(b"authorization", api.http.headers["authorization"].encode()), (b"x-request-id", b"gone-1")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(api.http.app(scope, receive, send))  # pyright: ignore[reportArgumentType]
    assert sent == []
    captured = capsys.readouterr()
    [line] = [line for line in (captured.out + captured.err).splitlines() if "gone-1" in line]
    assert "499" in line


def test_a_query_that_takes_too_long_says_to_ask_for_less(stack: Settings) -> None:
    impatient = connect(stack.clickhouse_url, answer_seconds=1)
    app = FastAPI()
    problems.install(app)

    @app.get("/slow")
    def slow() -> None:
        impatient.query("SELECT sum(cityHash64(number)) FROM numbers(1000000000000)")

    with TestClient(app) as client:
        response = client.get("/slow")
    impatient.close()
    assert (response.status_code, response.json()["code"]) == (503, "store.too_slow"), response.text
    assert "shorter range" in response.json()["detail"]
