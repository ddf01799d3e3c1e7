from typing import Any

import pytest

from tests.ingestion_api.control.test_subscriptions import entries_of
from tests.ingestion_api.test_worked_example import make_example
from tests.support.api import Api

NOW = "2026-03-10T12:00:00Z"
PERIOD_END = "2026-04-01T04:00:00Z"


def cancel(api: Api, subscription_id: str, *, status: int = 200, at_instant: str = NOW, **body: Any) -> Any:
    with api.at(at_instant):
        return api.post(f"/v1/subscriptions/{subscription_id}/cancel", body, status=status)


def row_of(api: Api, subscription_id: str) -> dict[str, Any]:
    with api.database.transaction() as connection:
        row = connection.execute("SELECT * FROM subscriptions WHERE id = %s", (subscription_id,)).fetchone()
    assert row is not None
    return row


@pytest.fixture
def subscription(api: Api) -> str:
    """Started on 1 January, billed up to 1 March, as the sweep would leave it on 10 March."""
    subscription_id = make_example(api)
    with api.database.transaction() as connection:
        connection.execute(
            "UPDATE subscriptions SET billed_until = '2026-03-01T05:00Z', next_bill_at = '2026-04-01T04:00Z'"
            " WHERE id = %s",
            (subscription_id,),
        )
    return subscription_id


def test_cancelled_now_it_is_canceled_and_its_closing_statement_is_due(api: Api, subscription: str) -> None:
    view = cancel(api, subscription, at="now")
    assert (view["status"], view["cancel_at"], view["canceled_at"]) == ("canceled", NOW, NOW)
    assert view["current_period"] is None
    assert view["next_bill_at"] == NOW
    assert row_of(api, subscription)["cancel_proration"] is False
    [entry] = entries_of(api, subscription)
    assert entry.ends_at is not None
    assert entry.ends_at.isoformat() == "2026-03-10T12:00:00+00:00"


def test_cancelled_at_the_period_end_it_runs_until_then(api: Api, subscription: str) -> None:
    view = cancel(api, subscription, at="period_end")
    assert (view["status"], view["cancel_at"], view["canceled_at"]) == ("active", PERIOD_END, None)
    assert view["next_bill_at"] == PERIOD_END
    with api.at(PERIOD_END):
        assert api.get(f"/v1/subscriptions/{subscription}")["status"] == "canceled"
        assert len(api.get("/v1/subscriptions?status=canceled")["data"]) == 1


def test_cancelled_at_a_time_to_come_it_is_billed_at_both(api: Api, subscription: str) -> None:
    view = cancel(api, subscription, at="2026-04-20T00:00:00Z", proration="prorate")
    assert (view["status"], view["cancel_at"]) == ("active", "2026-04-20T00:00:00Z")
    assert view["next_bill_at"] == PERIOD_END
    assert row_of(api, subscription)["cancel_proration"] is True


def test_a_later_cancellation_takes_the_place_of_an_earlier_one(api: Api, subscription: str) -> None:
    cancel(api, subscription, at="2026-03-20T00:00:00Z")
    assert row_of(api, subscription)["next_bill_at"].isoformat() == "2026-03-20T00:00:00+00:00"
    view = cancel(api, subscription, at="period_end")
    assert (view["cancel_at"], view["next_bill_at"]) == (PERIOD_END, PERIOD_END)
    [entry] = entries_of(api, subscription)
    assert entry.ends_at is not None
    assert entry.ends_at.isoformat() == "2026-04-01T04:00:00+00:00"


def test_a_preview_changes_nothing(api: Api, subscription: str) -> None:
    before = row_of(api, subscription)
    view = cancel(api, subscription, at="now", preview=True)
    assert (view["preview"], view["status"], view["cancel_at"]) == (True, "canceled", NOW)
    assert row_of(api, subscription) == before


def test_a_preview_shows_the_closing_invoice_with_what_it_credits(api: Api, subscription: str) -> None:
    kept = cancel(api, subscription, at="now", preview=True)["invoice"]
    assert [line["key"] for line in kept["lines"]] == ["tokens"]
    assert (kept["status"], kept["total"]) == ("draft", "0.00")
    credited = cancel(api, subscription, at="now", proration="prorate", preview=True)["invoice"]
    amounts = {line["key"]: line["amount"] for line in credited["lines"]}
    # of the 2,674,800 seconds of March in New York 802,800 have passed: 49 − 14.71 and 30 − 9.00
    assert amounts == {"base": "-34.29", "seats": "-21.00", "tokens": "0.00"}
    assert cancel(api, subscription, at="now")["invoice"] is None


def test_a_subscription_is_canceled_once(api: Api, subscription: str) -> None:
    cancel(api, subscription, at="now")
    assert cancel(api, subscription, status=409, at="now")["code"] == "subscription.already_canceled"


@pytest.mark.parametrize("at", ["now", "period_end", "2026-03-31T00:00:00Z"])
def test_one_that_has_not_started_is_withdrawn_and_never_billed(api: Api, at: str) -> None:
    make_example(api)
    body = {"customer": "acme", "plan": "pro", "start_at": "2026-04-01T00:00:00Z"}
    with api.at(NOW):
        draft = api.post("/v1/subscriptions", body)
    view = cancel(api, draft["id"], at=at)
    assert (view["status"], view["next_bill_at"]) == ("canceled", None)
    assert entries_of(api, draft["id"]) == []


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "request.missing_field", "/at"),
        ({"at": "tomorrow"}, "request.invalid_field", "/at"),
        ({"at": "2026-03-10T11:59:59Z"}, "subscription.invalid_cancel_at", "/at"),
        ({"at": "now", "proration": "full"}, "request.invalid_field", "/proration"),
        ({"at": "now", "preview": "yes"}, "request.invalid_field", "/preview"),
        ({"at": "now", "invoice": "next"}, "request.invalid_field", "/invoice"),
    ],
)
def test_a_bad_cancellation_is_422_at_its_field(
    api: Api, subscription: str, body: dict[str, Any], code: str, pointer: str
) -> None:
    problem = cancel(api, subscription, status=422, **body)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)


def test_an_unknown_subscription_is_not_found(api: Api) -> None:
    assert cancel(api, "sub_none", status=404, at="now")["code"] == "subscription.not_found"
