"""The live balance: what a wallet holds, less what usage that is not invoiced yet costs."""

from typing import Any

from tests.support.api import Api
from tests.support.billed_api import api_of
from tests.support.billing import ADVANCE, USAGE, World


def look(api: Api, customer_id: str) -> Any:
    [wallet] = api.get("/v1/wallets", customer=customer_id)["data"]
    return api.get(f"/v1/wallets/{wallet['id']}")


def test_running_usage_lowers_the_live_balance_until_its_invoice_lowers_the_balance(world: World, billed: Api) -> None:
    subscription = world.subscribe(USAGE)
    beside = world.subscribe(USAGE, beside=subscription)
    world.subscribe(USAGE)  # somebody else's, who uses nothing of this wallet
    world.bill(subscription, beside, now="2026-01-01")
    api = api_of(world, billed, "admin")
    with api.at("2026-01-10T00:00:00Z"):
        wallet = api.post("/v1/wallets", {"customer": subscription.external_id, "currency": "USD"})
        api.post(f"/v1/wallets/{wallet['id']}/grants", {"amount": "20"})
        world.use(subscription, ("2026-01-09", 300))
        found = look(api, subscription.customer_id)
        assert (found["balance"], found["live_balance"]) == ("20.00", "14.00")  # both subscriptions bill the customer
    with api.at("2026-02-01T00:30:00Z"):  # the period is over, and within its grace
        assert look(api, subscription.customer_id)["live_balance"] == "14.00"
        world.stored_until("2026-02-02")
        world.bill(subscription, beside, now="2026-02-01")
        found = look(api, subscription.customer_id)
        assert (found["balance"], found["live_balance"]) == ("14.00", "14.00")


def test_a_preview_is_paid_as_its_invoice_will_be(world: World, billed: Api) -> None:
    """A grant that starts with the next bill counts, one that is gone by then does not."""
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    api = api_of(world, billed, "admin")
    with api.at("2026-01-10T00:00:00Z"):
        wallet = api.post("/v1/wallets", {"customer": subscription.external_id, "currency": "USD"})
        path = f"/v1/wallets/{wallet['id']}/grants"
        api.post(path, {"amount": "20", "expires_at": "2026-02-01T00:00:00Z"})
        api.post(path, {"amount": "5", "effective_at": "2026-02-01T00:00:00Z"})
        preview = api.post("/v1/invoices/preview", {"subscription": subscription.id}, status=200)
    world.bill(subscription, now="2026-02-01")
    issued = world.invoices(subscription)[-1]
    assert (preview["credits_applied"], issued["credits_applied_minor"]) == ("5.00", 500)
    assert preview["amount_due"] == "44.00"
