"""Query parameters: only those that a route knows, and lists that go on after an object's own key."""

from typing import Any

import pytest

from tests.support.api import Api


@pytest.mark.parametrize(
    ("path", "name", "pointer"),
    [("/v1/events?typ=call", "typ", "/typ"), ("/v1/events?limit=1&Customer=x", "Customer", "/Customer"),
     ("/v1/events?filter[model]=x", "filter[model]", "/filter[model]"), ("/v1/meters?a~/b=1", "a~/b", "/a~0~1b"),
     ("/v1/events/none?sauce=a", "sauce", "/sauce"), ("/v1/customers?external_ids=x", "external_ids", "/external_ids"),
     ("/v1/invoices?=1", "", "/")],
)  # fmt: skip
def test_a_parameter_that_the_route_does_not_know_is_refused(api: Api, path: str, name: str, pointer: str) -> None:
    problem = api.get(path, status=422)
    assert problem["code"] == "request.unknown_parameter"
    assert repr(name) in problem["detail"]
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("path", "pointers"),
    [("/v1/usage?meter=a&meter=b", ["/meter"]), ("/v1/usage?meter=a&meter=a", ["/meter"]),
     ("/v1/events?limit=1&from=2026-01-01T00:00:00Z&limit=2&from=x", ["/limit", "/from"]),
     ("/v1/meters?archived=true&archived=false", ["/archived"]), ("/v1/events/none?source=a&source=b", ["/source"])],
)  # fmt: skip
def test_a_parameter_of_one_value_is_refused_when_it_is_given_twice(api: Api, path: str, pointers: list[str]) -> None:
    problem = api.get(path, status=422)
    assert problem["code"] == "request.repeated_parameter"
    assert [error["pointer"] for error in problem["errors"]] == pointers


def test_parameters_that_take_several_values_may_repeat(api: Api) -> None:
    body = {"key": "calls", "event_type": "call", "aggregation": "count", "group_by": ["model", "region"]}
    api.post("/v1/meters", body)
    api.get("/v1/usage?meter=calls&group_by=model&group_by=region&filter[model]=a&filter[model]=b")


def test_parameters_that_the_route_knows_are_taken(api: Api) -> None:
    api.get("/v1/events?type=call&limit=1000&status=voided&code=x&from=2026-01-01T00:00:00Z")
    api.get("/v1/customers?external_id=a&archived=true&limit=1")
    api.post("/v1/meters", {"key": "calls", "event_type": "call", "aggregation": "count", "group_by": ["model"]})
    api.get("/v1/usage?meter=calls&filter[model]=m1&window=day&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z")


def test_a_key_that_opens_nothing_is_refused_before_its_parameters(api: Api) -> None:
    assert api.with_key("mtr_nothing").get("/v1/events?typ=call").status_code == 401


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1.5", "", "9" * 30])
def test_a_limit_outside_its_range_is_refused(api: Api, limit: str) -> None:
    problem = api.get(f"/v1/events?limit={limit}", status=422)
    assert [error["pointer"] for error in problem["errors"]] == ["/limit"]


def make(api: Api, path: str, key: str) -> Any:
    bodies = {
        "/v1/customers": {"external_id": key, "name": key, "currency": "USD"},
        "/v1/meters": {"key": key, "event_type": "call", "aggregation": "count"},
        "/v1/features": {"key": key, "name": key, "type": "boolean"},
        "/v1/plans": {"key": key, "name": key, "currency": "USD", "prices": []},
    }
    return api.post(path, bodies[path])


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/meters", "/v1/features", "/v1/plans"])
def test_a_list_goes_on_after_an_id_or_an_own_key(api: Api, path: str) -> None:
    name = "external_id" if path == "/v1/customers" else "key"
    ids = [make(api, path, key)["id"] for key in ("one", "two", "three")]
    assert [each[name] for each in api.get(path, starting_after="two")["data"]] == ["one"]
    assert [each[name] for each in api.get(path, starting_after=ids[2], limit=1)["data"]] == ["two"]
    problem = api.get(path, starting_after="four", status=422)
    assert [error["pointer"] for error in problem["errors"]] == ["/starting_after"]
