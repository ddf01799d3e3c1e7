"""Endpoints of webhooks: made, changed and deleted; their secrets shown once."""

from typing import Any

import pytest

from tests.support.api import Api

HOOK = {"url": "https://93.184.216.34/hooks", "events": ["invoice.*", "customer.created"]}


def test_a_secret_is_shown_once_and_stands_in_no_kept_answer_and_no_event(api: Api) -> None:
    made = api.post("/v1/webhook_endpoints", HOOK, Idempotency_Key="one")
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert api.post("/v1/webhook_endpoints", HOOK, Idempotency_Key="one") == {**made, "secret": secret}
    assert api.get("/v1/webhook_endpoints")["data"] == [made] == [api.get(f"/v1/webhook_endpoints/{made['id']}")]
    path = f"/v1/webhook_endpoints/{made['id']}/rotate_secret"
    rotated = api.post(path, {}, status=200, Idempotency_Key="two")
    assert rotated["secret"] != secret
    assert rotated["old_secret_until"] is not None
    assert api.post(path, {}, status=200, Idempotency_Key="two") == rotated
    assert api.post("/v1/webhook_endpoints", HOOK)["secret"] not in (secret, rotated["secret"])
    with api.database.transaction() as connection:
        texts = connection.execute(
            "SELECT convert_from(body, 'UTF8') AS text FROM idempotency_keys UNION ALL SELECT data::text FROM outbox"
        ).fetchall()
    assert texts
    assert not any("whsec_" in row["text"] for row in texts)


def test_an_endpoint_is_changed_disabled_and_deleted(api: Api) -> None:
    made = api.post("/v1/webhook_endpoints", HOOK)
    path = f"/v1/webhook_endpoints/{made['id']}"
    changed = api.http.patch(path, json={"events": ["*"], "description": "all", "disabled": True}).json()
    assert (changed["events"], changed["description"], changed["url"]) == (["*"], "all", HOOK["url"])
    assert changed["disabled_reason"] == "requested"
    assert api.post(f"{path}/test", {}, status=409)["code"] == "webhook_endpoint.disabled"
    assert api.http.delete(path).json()["id"] == made["id"]
    assert api.get(path, status=404)["code"] == "webhook_endpoint.not_found"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"url": "http://127.0.0.1/"}, "webhook_endpoint.private_address"),
        ({"url": "http://169.254.169.254/latest"}, "webhook_endpoint.private_address"),
        ({"url": "ftp://93.184.216.34/"}, "webhook_endpoint.invalid_url"),
        ({"events": ["invoice.payed"]}, "request.invalid_field"),
        ({"events": []}, "request.invalid_field"),
    ],
    ids=["loopback", "metadata", "scheme", "misspelt", "no events"],
)
def test_what_could_never_be_delivered_is_refused_when_made_and_when_changed(
    api: Api, change: dict[str, Any], code: str
) -> None:
    refused = api.post("/v1/webhook_endpoints", {**HOOK, **change}, status=422)
    assert [error["code"] for error in refused["errors"]] == [code]
    made = api.post("/v1/webhook_endpoints", HOOK)
    assert api.http.patch(f"/v1/webhook_endpoints/{made['id']}", json=change).status_code == 422
