from datetime import UTC, datetime
from typing import Any

from infra.postgres.meters import complete_until
from tests.ingestion_api.control.test_meters import METER
from tests.support.api import Api
from tests.support.meters import finish_builds

MATRIX = {
    "key": "tokens",
    "type": "usage",
    "meter": "tokens",
    "model": "matrix",
    "dimensions": ["model"],
    "cells": [{"match": {"model": "m1"}, "unit_amount": "1"}],
    "billing_period": "month",
}


def patch(api: Api, body: Any, *, meter: str = "tokens", status: int = 200) -> Any:
    answer = api.http.patch(f"/v1/meters/{meter}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_new_meter_is_building_and_then_ready(api: Api) -> None:
    made = api.post("/v1/meters", METER)
    assert (made["status"], made["active_revision"]) == ("building", 1)
    assert made["build"] | {"created_at": ""} == {
        "revision": 1,
        "reason": "created",
        "state": "waiting",
        "counted_events": 0,
        "total_events": None,
        "created_at": "",
        "started_at": None,
    }
    finish_builds(api.settings)
    assert api.get("/v1/meters/tokens") == made | {"status": "ready", "build": None}


def test_usage_is_complete_up_to_the_first_stored_event_until_the_past_is_counted(api: Api) -> None:
    made = api.post("/v1/meters", METER)
    first, as_of = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)

    def complete(at: datetime | None) -> datetime | None:
        with api.database.transaction() as connection:
            row = connection.execute(
                "UPDATE meters SET built_until = CASE WHEN NOT is_built THEN %s::timestamptz END WHERE id = %s"
                " RETURNING no",
                (at, made["id"]),
            ).fetchone()
            assert row is not None
            return complete_until(connection, meter_nos=[row["no"]], as_of=as_of)

    assert complete(first) == first
    assert complete(None) is None, "nothing is known"
    finish_builds(api.settings)
    assert complete(first) == as_of


def test_a_name_changes_at_once_and_a_definition_as_a_new_revision(api: Api) -> None:
    api.post("/v1/meters", METER | {"group_by": ["model"], "metadata": {"team": "ml"}})
    finish_builds(api.settings)
    named = patch(api, {"name": "Tokens", "metadata": {"team": None, "cost": "7"}})
    assert (named["name"], named["metadata"], named["status"]) == ("Tokens", {"cost": "7"}, "ready")
    changed = patch(api, {"value": "$.all_tokens", "group_by": ["region"]})
    assert (changed["value"], changed["group_by"], changed["revision"]) == ("$.all_tokens", ["region"], 2)
    assert (changed["status"], changed["active_revision"], changed["build"]["reason"]) == ("building", 1, "changed")
    again = patch(api, {"value": "$.billed"})
    assert (again["value"], again["group_by"], again["revision"]) == ("$.billed", ["region"], 3)
    finish_builds(api.settings)
    ready = api.get("/v1/meters/tokens")
    assert (ready["value"], ready["active_revision"], ready["status"]) == ("$.billed", 3, "ready")


def test_a_change_that_is_taken_back_before_it_is_built_leaves_the_meter_as_it_was(api: Api) -> None:
    api.post("/v1/meters", METER)
    finish_builds(api.settings)
    patch(api, {"value": "$.other"})
    back = patch(api, {"value": "$.tokens"})
    assert (back["status"], back["revision"], back["build"]) == ("ready", 1, None)
    assert finish_builds(api.settings) == 0


def test_a_first_revision_that_is_changed_gives_way_at_once(api: Api) -> None:
    api.post("/v1/meters", METER)
    changed = patch(api, {"aggregation": "count", "value": None})
    assert (changed["revision"], changed["active_revision"], changed["value"]) == (2, 2, None)
    assert finish_builds(api.settings) == 1


def test_null_empties_filters_and_groups_and_what_is_not_given_stays(api: Api) -> None:
    api.post("/v1/meters", METER)
    filters = [{"property": "$.tier", "op": "eq", "values": ["paid"]}]
    assert patch(api, {"filters": filters, "group_by": ["region"]})["filters"] == filters
    emptied = patch(api, {"filters": None})
    assert (emptied["filters"], emptied["group_by"]) == ([], ["region"])
    assert patch(api, {"group_by": None})["group_by"] == []


def test_what_makes_no_meter_changes_none(api: Api) -> None:
    api.post("/v1/meters", METER)
    assert patch(api, {"aggregation": "count"}, status=422)["code"] == "meter.invalid_value"
    assert patch(api, {"value": "tokens +"}, status=422)["code"] == "meter.invalid_value"
    assert patch(api, {"key": "other"}, status=422)["code"] == "request.unknown_field"
    assert patch(api, {"name": "x"}, meter="nothing", status=404)["code"] == "meter.not_found"
    api.post("/v1/meters/tokens/archive", {}, status=200)
    assert patch(api, {"name": "x"}, status=409)["code"] == "meter.archived"
    assert api.post("/v1/meters/tokens/rebuild", {}, status=409)["code"] == "meter.archived"


def test_a_group_that_a_price_needs_stays(api: Api) -> None:
    api.post("/v1/meters", METER | {"group_by": ["model", "region"]})
    api.post("/v1/plans", {"key": "pro", "name": "Pro", "currency": "USD", "prices": [MATRIX], "entitlements": []})
    assert patch(api, {"group_by": ["region"]}, status=409)["code"] == "meter.group_in_use"
    assert patch(api, {"group_by": ["model"]})["group_by"] == ["model"]


def test_a_meter_can_be_counted_anew(api: Api) -> None:
    api.post("/v1/meters", METER)
    finish_builds(api.settings)
    rebuilt = api.post("/v1/meters/tokens/rebuild", {}, status=200)
    assert (rebuilt["revision"], rebuilt["build"]["reason"]) == (2, "repair")
    assert api.post("/v1/meters/tokens/rebuild", {}, status=200) == rebuilt, "one that is being built is enough"
    finish_builds(api.settings)
    assert api.get("/v1/meters/tokens")["active_revision"] == 2
