import json
from pathlib import Path
from typing import Any

import pytest

from ingestion_api.app import build_app
from tests.support.api import Api

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
OPEN = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return build_app().openapi()


def test_the_committed_description_is_that_of_the_code(description: dict[str, Any]) -> None:
    written = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(description)), (
        "write it anew: python -m ingestion_api.openapi > docs/openapi.json"
    )


def test_the_description_is_served_and_is_openapi_3_1(api: Api, description: dict[str, Any]) -> None:
    response = api.with_key(None).get("/openapi.json")
    assert response.status_code == 200
    assert response.json() == json.loads(json.dumps(description))
    assert description["openapi"].startswith("3.1")


def test_every_operation_has_a_name_a_summary_and_problem_answers(description: dict[str, Any]) -> None:
    names: list[str] = []
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            if path.startswith("/ofrep/"):
                for status in ("400", "401", "403", "404", "503"):
                    schema = operation["responses"][status]["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/FailureView"}
            elif path not in OPEN:
                for status in ("401", "403", "422", "503"):
                    reference = {"$ref": f"#/components/responses/Problem{status}"}
                    assert operation["responses"][status] == reference, (method, path)
    assert len(names) == len(set(names))


def test_the_raw_route_of_events_is_described(description: dict[str, Any]) -> None:
    content = description["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) == {
        "application/json",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "application/x-ndjson",
    }


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for item in value.values() for found in references(item)]
        return [found for item in value for found in references(item)] if isinstance(value, list) else []

    found = references(description)
    assert found
    for reference in found:
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in description["components"][kind], reference


def test_every_body_that_is_ours_refuses_unknown_fields(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    bodies = {name for name in schemas if name.endswith(("Body", "Change"))}
    assert bodies
    assert {name for name in bodies if schemas[name].get("additionalProperties") is not False} == set()


def test_what_goes_out_as_a_number_is_described_as_one(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    for name, field in [("CheckView", "lag_seconds"), ("ReservedView", "lag_seconds"), ("TopView", "used_percent")]:
        described = schemas[name]["properties"][field]
        assert {choice["type"] for choice in described.get("anyOf", [described])} - {"null"} == {"number"}, (
            name,
            field,
        )
