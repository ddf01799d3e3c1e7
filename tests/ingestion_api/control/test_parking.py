"""A parked subscription comes back into billing by one call."""

import pytest

from infra.cli.ledger import ask_invariants
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import USAGE, World
from tests.support.meters import finish_builds

NOW = "2026-02-02"


@pytest.fixture
def admin(billed: Api, world: World) -> Api:
    return api_of(world, billed, "admin")


def test_an_unparked_subscription_is_billed_once_its_cause_is_gone(world: World, admin: Api) -> None:
    subscription = world.subscribe(USAGE | {"meter": "late"})
    world.stored_until(NOW)
    world.bill(subscription, now=NOW)
    path = f"/v1/subscriptions/{subscription.id}"
    assert admin.get(path)["parked_reason"].startswith("subscription.unknown_meter")
    assert world.due(NOW) == []
    admin.post("/v1/meters", {"key": "late", "event_type": "late", "aggregation": "count"})
    view = admin.post(f"{path}/unpark", {}, status=200)
    assert (view["id"], view["parked_reason"]) == (subscription.id, None)
    assert view == admin.get(path)
    assert world.due(NOW) == [subscription.id]
    assert world.bill(subscription, now=NOW).waiting == 1  # for the meter to be built
    world.rows("UPDATE shards SET catalogue_version = 1000000 RETURNING 1")
    assert finish_builds(world.settings) == 1
    assert world.bill(subscription, now=NOW).invoices == 1
    told = world.rows("SELECT type FROM outbox WHERE object_id = %(id)s ORDER BY no", id=subscription.id)
    assert [row["type"] for row in told] == ["subscription.parked", "subscription.updated"]


def test_parked_subscriptions_are_listed_with_their_reasons_and_counted_by_the_doctor(world: World, admin: Api) -> None:
    subscriptions = [world.subscribe(USAGE | {"meter": "never"}) for _ in range(2)]
    billed = world.subscribe()
    world.stored_until(NOW)
    world.bill(*subscriptions, billed, now=NOW)
    found = admin.get("/v1/subscriptions", parked="true", limit="1")
    assert [found["data"][0]["id"], found["has_more"]] == [subscriptions[1].id, True]
    [second] = admin.get("/v1/subscriptions", parked="true", starting_after=found["next_cursor"])["data"]
    assert (second["id"], second["parked_reason"].partition(":")[0]) == (
        subscriptions[0].id,
        "subscription.unknown_meter",
    )
    assert [each["id"] for each in admin.get("/v1/subscriptions", parked="false")["data"]] == [billed.id]
    [row] = world.rows("SELECT count(*) AS parked FROM subscriptions WHERE parked_reason IS NOT NULL")
    assert f"parked subscriptions: {row['parked']}," in ask_invariants(world.settings.postgres_dsn)[1]


def test_what_still_can_not_be_billed_is_parked_again(world: World, admin: Api) -> None:
    subscription = world.subscribe(USAGE | {"meter": "never"})
    world.stored_until(NOW)
    world.bill(subscription, now=NOW)
    admin.post(f"/v1/subscriptions/{subscription.id}/unpark", {}, status=200)
    assert world.bill(subscription, now=NOW).parked == 1


def test_only_a_parked_subscription_is_unparked_and_the_same_call_twice_is_one(world: World, admin: Api) -> None:
    subscription = world.subscribe()
    path = f"/v1/subscriptions/{subscription.id}/unpark"
    assert admin.post(path, {}, status=409)["code"] == "subscription.not_parked"
    world.rows("UPDATE subscriptions SET parked_reason = 'a.b: c' WHERE id = %(id)s RETURNING 1", id=subscription.id)
    first = admin.post(path, {}, status=200, idempotency_key="k-1")
    assert admin.post(path, {}, status=200, idempotency_key="k-1") == first
    assert admin.post(path, {}, status=409)["code"] == "subscription.not_parked"
    assert admin.post("/v1/subscriptions/sub_none/unpark", {}, status=404)["code"] == "subscription.not_found"


def test_a_reader_can_not_unpark(world: World, billed: Api) -> None:
    path = f"/v1/subscriptions/{world.subscribe().id}/unpark"
    assert api_of(world, billed, "read").post(path, {}, status=403)["code"].startswith("auth.")
