"""A small HTTP server that behaves as Stripe's documented API does, as far as Meterline speaks to it.

Payment methods say what happens: `pm_card_visa` is charged, `pm_card_declined` is declined. `faults` are answers to the
next writes: a status (nothing is done), or `"drop"` (it is done, and the connection ends without an answer).
"""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


class StripeDouble:
    """What was made there, by id. `kept`: answers by idempotency key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.intents: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, tuple[dict[str, str], int, Any]] = {}
        self.faults: list[int | str] = []
        self.refund_status = "succeeded"  # of the next ones
        self.is_another = False  # an account that has nothing of what is asked for
        self.together: threading.Barrier | None = None  # writes wait here for one another
        self.url = ""

    def charged(self) -> int:
        """Minor units that were charged in all."""
        return sum(intent["amount"] for intent in self.intents.values() if intent["status"] == "succeeded")

    def refunded(self) -> int:
        """Minor units that went back, or are on their way."""
        return sum(refund["amount"] for refund in self.refunds.values() if refund["status"] != "failed")

    def write(self, path: str, params: dict[str, str], key: str) -> tuple[int, Any]:
        if self.is_another:
            return 400, MISSING
        if key in self.kept:
            before, status, body = self.kept[key]
            if before != params:
                return 400, _error("idempotency_error", "Keys for idempotent requests can only be used with the same.")
            return status, body
        status, body = self._intent(params) if path == "/v1/payment_intents" else self._refund(params)
        self.kept[key] = (params, status, body)
        return status, body

    def _intent(self, params: dict[str, str]) -> tuple[int, Any]:
        is_declined = params["payment_method"] == "pm_card_declined"
        intent: dict[str, Any] = {
            "id": f"pi_{len(self.intents) + 1}",
            "object": "payment_intent",
            "amount": int(params["amount"]),
            "currency": params["currency"],
            "created": 4_000_000_000,
            "metadata": _metadata(params),
            "status": "requires_payment_method" if is_declined else "succeeded",
        }
        if params["payment_method"] == "pm_bank":
            intent["status"] = "processing"
        self.intents[intent["id"]] = intent
        if not is_declined:
            return 200, intent
        error = _error("card_error", "Your card has insufficient funds.", code="card_declined")
        intent["last_payment_error"] = {"code": "card_declined", "decline_code": "insufficient_funds"}
        error["error"] |= {"decline_code": "insufficient_funds", "payment_intent": intent}
        return 402, error

    def _refund(self, params: dict[str, str]) -> tuple[int, Any]:
        refund: dict[str, Any] = {
            "id": f"re_{len(self.refunds) + 1}",
            "object": "refund",
            "amount": int(params["amount"]),
            "payment_intent": params["payment_intent"],
            "created": 4_000_000_000,
            "metadata": _metadata(params),
            "status": self.refund_status,
        }
        self.refunds[refund["id"]] = refund
        return 200, refund

    def read(self, path: str) -> tuple[int, Any]:
        if self.is_another:
            return 404, MISSING
        kind, _, name = path.removeprefix("/v1/").partition("/")
        made = self.intents if kind == "payment_intents" else self.refunds
        if name:
            return (200, made[name]) if name in made else (404, MISSING)
        return 200, {"object": "list", "url": path, "has_more": False, "data": list(reversed(made.values()))}


def _metadata(params: dict[str, str]) -> dict[str, str]:
    return {key[len("metadata[") : -1]: value for key, value in params.items() if key.startswith("metadata[")}


def _error(kind: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message, **more}}


MISSING = _error("invalid_request_error", "No such object.", code="resource_missing")


@contextmanager
def running_stripe() -> Generator[StripeDouble]:
    """The double on a port of its own."""
    double = StripeDouble()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with double.lock:
                self._answer(*double.read(urlsplit(self.path).path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            if double.together is not None:
                double.together.wait(timeout=30)
            with double.lock:
                fault = double.faults.pop(0) if double.faults else None
                if isinstance(fault, int):
                    self._answer(fault, _error("api_error", "Not now."))
                    return
                answer = double.write(urlsplit(self.path).path, dict(parse_qsl(body)), self.headers["idempotency-key"])
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            self._answer(*answer)

        def _answer(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if status == 429:
                self.send_header("stripe-should-retry", "true")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    double.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
