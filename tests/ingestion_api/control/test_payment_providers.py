"""Connecting Stripe, and what it tells."""

import hashlib
import hmac
import json
import time

from httpx2 import Response

from tests.support.api import Api


def test_stripe_is_connected_without_showing_its_secrets_and_its_events_need_its_signature(api: Api) -> None:
    body = {"secret_key": "sk_test_abcdefgh1234", "webhook_secret": "whsec_abcdefgh1234"}
    made = api.http.put("/v1/payment_providers/stripe", json=body)
    assert made.status_code == 200, made.text
    view = made.json()
    assert view["secret_key"] == "sk_…1234"
    assert "whsec" not in made.text
    api.post("/v1/customers", {"external_id": "acme"})
    method = {"provider": "stripe", "customer": "cus_1", "payment_method": "pm_1"}
    assert api.http.put("/v1/customers/acme/payment_method", json=method).json() == method
    assert api.get("/v1/customers/acme")["has_payment_method"] is True
    event = json.dumps({"type": "payment_intent.succeeded", "data": {"object": {"id": "pi_1", "status": "succeeded"}}})
    at = int(time.time())

    def sign(t: int) -> str:
        return hmac.new(b"whsec_abcdefgh1234", f"{t}.{event}".encode(), hashlib.sha256).hexdigest()

    def send(header: str) -> Response:
        return api.with_key(None).post(view["events_path"], content=event, headers={"stripe-signature": header})

    assert send(f"t={at},v1={sign(at)}").status_code == 204
    assert send(f"t={at},v1={'0' * 64}").status_code == 400
    assert send(f"t={at - 3600},v1={sign(at - 3600)}").status_code == 400
    assert api.http.delete("/v1/customers/acme/payment_method").status_code == 204
    assert api.http.delete("/v1/payment_providers/stripe").status_code == 204
