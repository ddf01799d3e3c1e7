"""Changes of a subscription whose running usage a threshold has billed."""

from decimal import Decimal
from typing import Any

import pytest

from billing_workflows.due import run_chunk
from infra.postgres.due import Moment
from schemas.billing import BilledSubscription
from schemas.workflows import THRESHOLDS
from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import USAGE, World, instant


@pytest.fixture
def api(billed: Api, world: World) -> Api:
    """The API as an admin of the world's tenant sees it."""
    return api_of(world, billed, "admin")


@pytest.fixture
def billed_by_threshold(world: World) -> BilledSubscription:
    """20.00 of usage of 5 January are billed by 10 January, at 0.01 each."""
    subscription = world.subscribe(USAGE, invoice_threshold=Decimal(10))
    world.bill(subscription, now="2026-01-01")
    world.use(subscription, ("2026-01-05", 2000))
    world.stored_until("2026-01-10T01:00")
    moment = Moment(now=instant("2026-01-10"))
    assert run_chunk(world.doors, THRESHOLDS, [subscription.id], moment).invoices == 1
    return subscription


CHANGE = {"price_overrides": {"tokens": {"unit_amount": "0.02"}}}


@pytest.mark.parametrize(("route", "body"), [("change", CHANGE), ("pause", {})])
@pytest.mark.parametrize("at", ["2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"])
def test_what_a_threshold_has_billed_is_not_cut_anew(
    api: Api, billed_by_threshold: BilledSubscription, route: str, body: dict[str, Any], at: str
) -> None:
    path = f"/v1/subscriptions/{billed_by_threshold.id}/{route}"
    with api.at("2026-01-12T00:00:00Z"):
        for preview in (True, False):
            refused = api.post(path, {**body, "at": at, "preview": preview}, status=409)
            assert refused["code"] == "subscription.already_billed"
            assert refused["errors"][0]["pointer"] == "/at"


def test_a_change_after_what_a_threshold_has_billed_bills_each_stretch_once_also_what_comes_late(
    world: World, api: Api, billed_by_threshold: BilledSubscription
) -> None:
    with api.at("2026-01-12T00:00:00Z"):
        path = f"/v1/subscriptions/{billed_by_threshold.id}/change"
        api.post(path, {**CHANGE, "at": "2026-01-10T00:00:00Z"}, status=200)
    world.use(billed_by_threshold, ("2026-01-09", 100), ("2026-01-11", 1000))
    world.stored_until("2026-03-02")
    world.bill(billed_by_threshold, now="2026-02-02")
    world.use(billed_by_threshold, ("2026-01-02", 10), ("2026-01-20", 1))
    world.bill(billed_by_threshold, now="2026-03-02")
    assert [[line["amount_minor"] for line in invoice["lines"]] for invoice in world.invoices(billed_by_threshold)] == [
        [20_00],
        [1_00, 20_00],
        [0, 10, 2],
    ]
