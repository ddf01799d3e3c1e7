from typing import Any

import pytest

from tests.support.api import Api

TEN_PERCENT = {"key": "launch", "percent": "10", "duration": "forever"}


def test_a_coupon_is_found_by_its_id_its_key_and_its_code(api: Api) -> None:
    made = api.post(
        "/v1/coupons",
        {
            **TEN_PERCENT,
            "code": "Launch10",
            "max_redemptions": 2,
            "expires_at": "2030-01-01T00:00:00Z",
            "metadata": {"from": "fair"},
        },
    )
    assert (made["object"], made["name"], made["percent"], made["redemptions"]) == ("coupon", "launch", "10", 0)
    assert (made["amount"], made["currency"], made["periods"], made["archived_at"]) == (None, None, None, None)
    for reference in (made["id"], "launch", "LAUNCH10", "launch10"):
        assert api.get(f"/v1/coupons/{reference}") == made
    assert api.get("/v1/coupons/none", status=404)["code"] == "coupon.not_found"


def test_a_key_and_a_code_are_of_one_coupon_only(api: Api) -> None:
    api.post("/v1/coupons", {**TEN_PERCENT, "code": "SAVE"})
    for body in ({**TEN_PERCENT}, {**TEN_PERCENT, "key": "other", "code": "save"}):
        assert api.post("/v1/coupons", body, status=409)["code"] == "coupon.already_exists"


def test_an_archived_coupon_leaves_the_list_and_may_come_back(api: Api) -> None:
    api.post("/v1/coupons", TEN_PERCENT)
    archived = api.http.patch("/v1/coupons/launch", json={"archived": True, "name": "Old"}).json()
    assert archived["archived_at"] is not None
    assert archived["name"] == "Old"
    assert api.http.patch("/v1/coupons/launch", json={"archived": True}).json() == archived
    assert api.get("/v1/coupons")["data"] == []
    assert api.get("/v1/coupons", archived=True)["data"] == [archived]
    assert api.http.patch("/v1/coupons/launch", json={"archived": False}).json()["archived_at"] is None


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"percent": None}, "coupon.invalid_terms", "/percent"),
    ({"amount": "5", "currency": "USD"}, "coupon.invalid_terms", "/percent"),
    ({"percent": "0"}, "coupon.invalid_terms", "/percent"),
    ({"percent": "100.1"}, "coupon.invalid_terms", "/percent"),
    ({"percent": None, "amount": "5"}, "coupon.invalid_terms", "/currency"),
    ({"currency": "USD"}, "coupon.invalid_terms", "/currency"),
    ({"percent": None, "amount": "-5", "currency": "USD"}, "coupon.invalid_terms", "/amount"),
    ({"percent": None, "amount": "5.001", "currency": "USD"}, "coupon.invalid_terms", "/amount"),
    ({"percent": None, "amount": "0.5", "currency": "JPY"}, "coupon.invalid_terms", "/amount"),
    ({"duration": "repeating"}, "coupon.invalid_terms", "/periods"),
    ({"periods": 3}, "coupon.invalid_terms", "/periods"),
    ({"duration": "always"}, "request.invalid_field", "/duration"),
    ({"duration": "repeating", "periods": 0}, "request.invalid_field", "/periods"),
    ({"max_redemptions": 0}, "request.invalid_field", "/max_redemptions"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "coupon.invalid_terms", "/expires_at"),
    ({"code": "two words"}, "request.invalid_field", "/code"),
]


@pytest.mark.parametrize(("change", "code", "pointer"), BAD)
def test_a_bad_coupon_is_refused_at_its_field(api: Api, change: dict[str, Any], code: str, pointer: str) -> None:
    problem = api.post("/v1/coupons", {**TEN_PERCENT, **change}, status=422)
    assert (problem["code"], problem["errors"][0]["pointer"]) == (code, pointer)
    assert api.get("/v1/coupons")["data"] == []


def test_lists_of_coupons_are_paged_newest_first(api: Api) -> None:
    for key in ("a", "b", "c"):
        api.post("/v1/coupons", {**TEN_PERCENT, "key": key})
    page = api.get("/v1/coupons", limit=2)
    assert [each["key"] for each in page["data"]] == ["c", "b"]
    assert [each["key"] for each in api.get("/v1/coupons", starting_after="b")["data"]] == ["a"]
