"""The description of the API, OpenAPI 3.1. `python -m ingestion_api.openapi > docs/openapi.json` writes it.

FastAPI describes its own routes; here is added what it can't see: the raw route of events, the bearer key, and that
every error is a problem document.
"""

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ingestion_api.idempotency import KEY_DESCRIPTION
from ingestion_api.views import Problem

API_VERSION = "1"
PROBLEM_TYPE = "application/problem+json"

_REASONS = {
    400: "The request can't be read.",
    401: "No key, or one that opens nothing.",
    403: "The key's role does not reach this far.",
    404: "No such object in this tenant.",
    408: "The body did not come in its time.",
    409: "The present state of things forbids it.",
    413: "Larger than a limit.",
    422: "Readable, but not valid; `errors` says where.",
    503: "Not available right now; try again after `Retry-After` seconds.",
}


def _problem_response(reason: str) -> dict[str, Any]:
    return {"description": reason, "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


#: The errors of every route, for FastAPI.
PROBLEMS: dict[int | str, dict[str, Any]] = {status: _problem_response(reason) for status, reason in _REASONS.items()}

_OPEN_PATHS = ("/healthz", "/readyz", "/metrics")

#: OpenFeature's routes answer errors in its own form, and have no other statuses than it knows.
_OFREP_PATHS = "/ofrep/"
_NOT_OFREPS = ("409", "422")


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole description of an app's routes and of POST /v1/events."""
    schema = get_openapi(
        title=app.title, version=app.version, summary=app.summary, openapi_version="3.1.0", routes=app.routes
    )
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(_PROBLEM_SCHEMAS | _EVENT_SCHEMAS)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `mtr_…`."}
    }
    components["responses"] = {f"Problem{status}": response for status, response in PROBLEMS.items()}
    schema["security"] = [{"bearer": []}]
    schema["paths"].setdefault("/v1/events", {})["post"] = _POST_EVENTS
    for path in _OPEN_PATHS:
        operation = schema["paths"][path]["get"]
        operation["security"] = []
        operation["responses"] = {
            status: response for status, response in operation["responses"].items() if status in ("200", "503")
        }
        if path != "/readyz":
            operation["responses"].pop("503", None)
    for path, operations in schema["paths"].items():
        if path.startswith(_OFREP_PATHS):
            for status in _NOT_OFREPS:
                operations["post"]["responses"].pop(status)
    _share_problems(schema["paths"])
    return schema


def _share_problems(paths: dict[str, Any]) -> None:
    """Let operations refer to a problem answer instead of repeating it."""
    for operations in paths.values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if list(response.get("content", ())) == [PROBLEM_TYPE]:
                    operation["responses"][status] = {"$ref": f"#/components/responses/Problem{status}"}


_TEXT = {"type": "string"}
_FIELD = {"pointer": _TEXT, "code": _TEXT, "detail": _TEXT}
_PROBLEM_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": Problem.__doc__,
        "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"],
        "properties": {
            **dict.fromkeys(("type", "title", "detail", "instance", "code", "request_id"), _TEXT),
            "status": {"type": "integer"},
            "errors": {
                "type": "array",
                "items": {"type": "object", "required": list(_FIELD), "properties": _FIELD},
            },
        },
    }
}
_EVENT_SCHEMAS: dict[str, Any] = {
    "Event": {
        "type": "object",
        "description": "A CloudEvent 1.0. Its identity is (tenant, source, id): sent again it counts once.",
        "required": ["id", "type", "subject"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {"type": "string", "minLength": 1},
            "source": {"type": "string", "default": "api"},
            "type": {"type": "string", "minLength": 1},
            "subject": {
                "type": "string",
                "description": "The customer's external_id or one of its subjects.",
                "minLength": 1,
            },
            "time": {
                "type": "string",
                "format": "date-time",
                "description": "When it happened; when it was received if absent.",
            },
            "data": {"type": "object"},
        },
    },
    "EventRejection": {
        "type": "object",
        "required": ["index", "id", "code", "detail"],
        "properties": {
            "index": {"type": "integer"},
            "id": {"type": ["string", "null"]},
            "code": _TEXT,
            "detail": _TEXT,
        },
    },
    "EventsAccepted": {
        "type": "object",
        "description": "The brokers hold the accepted events. `duplicates` are copies inside the request.",
        "required": ["accepted", "duplicates", "rejected"],
        "properties": {
            "accepted": {"type": "integer"},
            "duplicates": {"type": "integer"},
            "rejected": {"type": "array", "items": {"$ref": "#/components/schemas/EventRejection"}},
        },
    },
}

_ONE = {"schema": {"$ref": "#/components/schemas/Event"}}
_MANY = {"schema": {"type": "array", "items": _ONE["schema"], "maxItems": 10_000}}
_POST_EVENTS: dict[str, Any] = {
    "tags": ["events"],
    "summary": "Send Events",
    "description": "Send up to 10,000 events. The answer comes once the brokers have acknowledged them; after a 503"
    " send the same ids again, nothing counts twice: the ids are the idempotency of events. An `Idempotency-Key` costs"
    " two waits for PostgreSQL, and gives the first answer again. `Content-Encoding` gzip or zstd.",
    "operationId": "send_events",
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": KEY_DESCRIPTION,
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": [_ONE["schema"], _MANY["schema"]]}},
            "application/cloudevents+json": _ONE,
            "application/cloudevents-batch+json": _MANY,
            "application/x-ndjson": {"schema": {"type": "string", "description": "An event a line."}},
        },
    },
    "responses": {
        "202": {
            "description": "Acknowledged by the brokers.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EventsAccepted"}}},
        },
        **{str(status): PROBLEMS[status] for status in (400, 401, 403, 408, 409, 413, 422, 503)},
    },
}


def main() -> None:
    """Print the description."""
    from ingestion_api.app import build_app

    json.dump(build_app().openapi(), sys.stdout, indent=2, ensure_ascii=False, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
