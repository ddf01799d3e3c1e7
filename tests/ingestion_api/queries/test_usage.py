"""GET /v1/usage as a client sees it."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ingestion_api.control.meters import to_entry
from tests.infra.clickhouse.rows import StoredEvent
from tests.ingestion_api.queries.conftest import Tenant

DAY = datetime.fromisoformat("2026-03-07T12:00:00Z")


def call(tenant: Tenant, event_id: str, customer: str, at: datetime, tokens: str, model: str | None) -> StoredEvent:
    name = "null" if model is None else f'"{model}"'
    return StoredEvent(
        id=event_id, customer_no=tenant.customers[customer], occurred_at=at, type="call",
        data=f'{{"tokens":{tokens},"model":{name}}}',
    )  # fmt: skip


@pytest.fixture
def used(tenant: Tenant) -> Tenant:
    """Four days round the start of daylight saving in New York, 8 March 2026."""
    tenant.store(
        [
            call(tenant, "1", "acme", DAY, "10", "m1"),
            call(tenant, "2", "acme", DAY + timedelta(days=1), "0.5", "m2"),
            call(tenant, "3", "acme", DAY + timedelta(days=1, hours=16, minutes=30), "-3", None),
            call(tenant, "4", "umbrella", DAY + timedelta(days=3), "1e3", "m1"),
        ],
        redo=True,
    )
    return tenant


def rows(tenant: Tenant, **params: Any) -> list[tuple[Any, ...]]:
    answer = tenant.api.get("/v1/usage", meter="tokens", **{name.rstrip("_"): value for name, value in params.items()})
    return [(row["window_start"], row["customer"], row["group"], row["value"]) for row in answer["data"]]


def test_without_anything_else_it_is_the_total_of_all_time(used: Tenant) -> None:
    answer = used.api.get("/v1/usage", meter="tokens")
    assert [(row["customer"], row["group"], row["value"]) for row in answer["data"]] == [(None, {}, "1007.5")]
    assert answer["has_more"] is False


def test_days_follow_the_zone_and_its_daylight_saving(used: Tenant) -> None:
    asked = {"from_": "2026-03-07T05:00:00Z", "to": "2026-03-11T04:00:00Z", "window": "day"}
    assert rows(used, customer="acme", timezone="America/New_York", fill="zero", **asked) == [
        ("2026-03-07T05:00:00Z", "acme", {}, "10"),
        ("2026-03-08T05:00:00Z", "acme", {}, "0.5"),
        ("2026-03-09T04:00:00Z", "acme", {}, "-3"),
        ("2026-03-10T04:00:00Z", "acme", {}, "0"),
    ]
    answer = used.api.get("/v1/usage", meter="tokens", window="day", timezone="America/New_York", customer="acme")
    assert answer["data"][1]["window_end"] == "2026-03-09T04:00:00Z"


def test_weeks_are_those_of_iso(used: Tenant) -> None:
    assert rows(used, window="week") == [
        ("2026-03-02T00:00:00Z", None, {}, "10.5"),
        ("2026-03-09T00:00:00Z", None, {}, "997"),
    ]


def test_groups_repeat_or_take_commas_and_a_missing_property_is_null(used: Tenant) -> None:
    wanted = [
        ({"model": None}, "acme", "-3"), ({"model": "m1"}, "acme", "10"), ({"model": "m2"}, "acme", "0.5"),
        ({"model": "m1"}, "umbrella", "1000"),
    ]  # fmt: skip
    for group_by in (["model", "customer"], "model,customer", "$.model,customer"):
        found = rows(used, group_by=group_by, window="month")
        assert [(group, customer, value) for _, customer, group, value in found] == wanted


def test_filters_take_only_their_groups(used: Tenant) -> None:
    get = used.api.get
    assert get("/v1/usage", meter="tokens", **{"filter[model]": "m1"})["data"][0]["value"] == "1010"
    assert get("/v1/usage", meter="tokens", **{"filter[model]": ["m1", "m2"]})["data"][0]["value"] == "1010.5"
    assert get("/v1/usage", meter="tokens", **{"filter[model]": "m3"})["data"] == []


def test_from_and_to_are_exact_to_the_microsecond(used: Tenant) -> None:
    assert rows(used, from_="2026-03-07T12:00:00Z", to="2026-03-07T12:00:00.000001Z")[0][3] == "10"
    assert rows(used, from_="2026-03-07T12:00:00.000001Z", to="2026-03-08T12:00:00Z") == []
    assert rows(used, from_="2026-03-07T13:00:00+01:00", to="2026-03-08T12:00:00.000001Z")[0][3] == "10.5"


@pytest.mark.parametrize("fill", [None, "zero"])
def test_pages_put_together_are_the_whole_answer(used: Tenant, fill: str | None) -> None:
    params: dict[str, Any] = {
        "meter": "tokens", "window": "day", "group_by": "model,customer", "from": "2026-03-07T00:00:00Z",
        "to": "2026-03-11T00:00:00Z",
    }  # fmt: skip
    params |= {"fill": fill} if fill else {}
    whole = used.api.get("/v1/usage", **params)["data"]
    assert len(whole) == (16 if fill else 4)
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = used.api.get("/v1/usage", limit=3, **params, **({"starting_after": cursor} if cursor else {}))
        found += page["data"]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert found == whole


@pytest.mark.parametrize(
    "other",
    [{"meter": "calls"}, {"window": "hour"}, {"group_by": "customer"}, {"customer": "acme"}, {"fill": "zero"},
     {"timezone": "Europe/Berlin"}, {"to": "2026-03-10T00:00:00Z"}, {"filter[model]": "m1"}],
    ids=str,
)  # fmt: skip
def test_a_cursor_goes_on_only_with_the_query_it_is_of(used: Tenant, other: dict[str, str]) -> None:
    query = {"meter": "tokens", "window": "day", "from": "2026-03-07T00:00:00Z", "to": "2026-03-11T00:00:00Z"}
    cursor = used.api.get("/v1/usage", **query, limit=1)["next_cursor"]
    used.api.get("/v1/usage", starting_after=cursor, limit=5, **dict(reversed(query.items())))
    problem = used.api.get("/v1/usage", status=422, starting_after=cursor, **(query | other))
    assert problem["code"] == "request.invalid_field"
    assert [error["pointer"] for error in problem["errors"]] == ["/starting_after"]


def test_as_of_is_null_until_every_partition_has_been_stored_from(used: Tenant) -> None:
    answer = used.api.get("/v1/usage", meter="tokens")
    assert (answer["as_of"], answer["lag_seconds"]) == (None, None)


def test_as_of_is_no_later_than_what_a_new_meter_has_counted_of_the_past(used: Tenant) -> None:
    api, last = used.api, used.api.settings.events_partitions
    with api.database.transaction() as connection:
        connection.execute(
            "INSERT INTO shard_offsets (topic, partition, shard, counted_until, stored_until)"
            " SELECT %s, n, 0, '2026-03-12T00:00:00Z', '2026-03-12T00:00:00Z' FROM generate_series(0, %s) AS n",
            (api.settings.events_topic, last - 1),
        )
        meter_no = used.meters["tokens"].meter_no
        connection.execute(
            "UPDATE meters SET is_built = false, built_until = '2026-03-09T00:00:00Z' WHERE no = %s", (meter_no,)
        )
    try:
        with api.at("2026-03-12T00:00:01.5Z"):
            building = api.get("/v1/usage", meter="tokens")
            with api.database.transaction() as connection:
                connection.execute("UPDATE meters SET is_built = true WHERE no = %s", (meter_no,))
            built = api.get("/v1/usage", meter="tokens")
    finally:
        with api.database.transaction() as connection:
            connection.execute("DELETE FROM shard_offsets")
    assert (building["as_of"], building["lag_seconds"]) == ("2026-03-09T00:00:00Z", 259_201.5)
    assert (built["as_of"], built["lag_seconds"]) == ("2026-03-12T00:00:00Z", 1.5)


@pytest.fixture
def every(tenant: Tenant) -> Tenant:
    """A meter of each other aggregation, named after it, and four days of events."""
    for aggregation in ("min", "max", "avg", "latest", "unique_count", "weighted_sum"):
        tenant.api.post(
            "/v1/meters",
            {"key": aggregation, "event_type": "call", "aggregation": aggregation, "value": "$.tokens",
             "group_by": ["model"]},
        )  # fmt: skip
    with tenant.api.database.transaction() as connection:
        rows = connection.execute(
            "SELECT * FROM meters WHERE event_type = 'call' AND tenant_id = (SELECT id FROM tenants WHERE no = %s)",
            (tenant.no,),
        ).fetchall()
    complete = replace(tenant, meters={row["key"]: to_entry(row) for row in rows})
    complete.store(
        [
            call(tenant, "1", "acme", DAY, "10", "m1"),
            call(tenant, "2", "acme", DAY + timedelta(days=1), "0.5", "m2"),
            call(tenant, "3", "acme", DAY + timedelta(days=1, hours=1), "-3", "m1"),
            call(tenant, "4", "umbrella", DAY + timedelta(days=2), "10", "m1"),
            call(tenant, "5", "umbrella", DAY + timedelta(days=2, hours=6), "0.25", "m1"),
        ],
        redo=True,
    )
    return complete


DAYS = {"from": "2026-03-07T00:00:00Z", "to": "2026-03-10T00:00:00Z", "window": "day"}


@pytest.mark.parametrize(
    ("meter", "values"),
    [
        ("min", ["10", "-3", "0.25"]),
        ("max", ["10", "0.5", "10"]),
        ("avg", ["10", "-1.25", "5.125"]),
        ("latest", ["10", "-3", "0.25"]),
        ("unique_count", ["1", "2", "2"]),
        # acme's m1: 10 from the first noon, -3 from 13:00 of the second day; its m2: 0.5 from that noon; umbrella's m1:
        # 10 from noon of the third day, 0.25 from 18:00.
        ("weighted_sum", ["5", "4.291666666667", "0.0625"]),
    ],
)
def test_every_aggregation_has_its_windows(every: Tenant, meter: str, values: list[str]) -> None:
    found = every.api.get("/v1/usage", meter=meter, **DAYS)["data"]
    assert [row["value"] for row in found] == values
    paged: list[Any] = []
    cursor: dict[str, str] = {}
    asked = {"meter": meter, "group_by": "customer,model", "fill": "zero", **DAYS}
    whole = every.api.get("/v1/usage", **asked)["data"]
    while True:
        page = every.api.get("/v1/usage", limit=2, **asked, **cursor)
        paged += page["data"]
        if not page["has_more"]:
            break
        cursor = {"starting_after": page["next_cursor"]}
    assert paged == whole
    assert len(whole) == 9


@pytest.mark.parametrize(
    ("params", "status", "pointer"),
    [
        ({"meter": "nope"}, 404, None),
        ({"customer": "nope"}, 404, None),
        ({"customer": ""}, 422, "/customer"),
        ({"timezone": "Mars/Olympus"}, 422, "/timezone"),
        ({"timezone": "localtime"}, 422, "/timezone"),
        ({"window": "year"}, 422, "/window"),
        ({"from": "yesterday"}, 422, "/from"),
        ({"from": "2026-01-01T00:00:00"}, 422, "/from"),
        ({"from": "1899-12-31T23:59:59Z"}, 422, "/from"),
        ({"to": "2201-01-01T00:00:00Z"}, 422, "/to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T00:00:00Z"}, 422, "/to"),
        ({"limit": "0"}, 422, "/limit"),
        ({"limit": "1001"}, 422, "/limit"),
        ({"limit": "x"}, 422, "/limit"),
        ({"fill": "one"}, 422, "/fill"),
        ({"group_by": "nope"}, 422, "/group_by"),
        ({"filter[nope]": "x"}, 422, "/filter[nope]"),
        ({"filter": "x"}, 422, "/filter"),
        ({"filter[customer]": "x"}, 422, "/filter[customer]"),
        ({"starting_after": "!"}, 422, "/starting_after"),
        ({"starting_after": "k88ABkdcY_egAAGQxx"}, 422, "/starting_after"),
        ({"window": "minute", "from": "2000-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, 422, "/window"),
    ],
)
def test_a_wrong_parameter_is_named(tenant: Tenant, params: dict[str, str], status: int, pointer: str | None) -> None:
    problem = tenant.api.get("/v1/usage", status=status, **({"meter": "tokens"} | params))
    assert [error["pointer"] for error in problem["errors"]] == ([] if pointer is None else [pointer])


@pytest.mark.usefixtures("used")
def test_another_tenants_meter_is_not_found(operator: Any) -> None:
    stranger = operator.new_tenant()
    assert stranger.get("/v1/usage", meter="tokens", status=404)["code"] == "meter.not_found"


def test_a_key_that_may_only_send_may_not_read(used: Tenant) -> None:
    key = used.api.post("/v1/api_keys", {"name": "sender", "role": "ingest"})["secret"]
    assert used.api.with_key(key).get("/v1/usage", params={"meter": "tokens"}).status_code == 403
