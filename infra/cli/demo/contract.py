"""What the demo sells, and to whom: the bodies that it posts."""

from datetime import datetime
from typing import Any

from infra.cli.demo.trace import Request
from schemas.instants import format_instant

EVENT_TYPE = "llm.request"
PLAN = "assistant"

CUSTOMERS = {
    "aurora-labs": "Aurora Labs",
    "birch-media": "Birch Media",
    "cobalt-robotics": "Cobalt Robotics",
    "delta-desk": "Delta Desk",
}
#: Who sends the nth request of every ten: the largest customer has four of them.
TURNS = (
    "aurora-labs",
    "birch-media",
    "aurora-labs",
    "cobalt-robotics",
    "aurora-labs",
    "birch-media",
    "delta-desk",
    "aurora-labs",
    "cobalt-robotics",
    "birch-media",
)
MODELS = ("atlas-large", "atlas-small", "atlas-small")  # by turns too: every third request is a large one

METERS = ("context_tokens", "generated_tokens")
PRICES: list[dict[str, Any]] = [
    {"key": "base", "type": "fixed", "model": "flat", "amount": "49", "billing_period": "month", "timing": "advance"},
    {
        "key": "context",
        "type": "usage",
        "meter": "context_tokens",
        "model": "graduated",
        "billing_period": "month",
        "included_quantity": "500000",
        "tiers": [
            {"up_to": "2000000", "unit_amount": "0.0000025"},
            {"up_to": None, "unit_amount": "0.0000018"},
        ],
    },
    {
        "key": "generated",
        "type": "usage",
        "meter": "generated_tokens",
        "model": "graduated",
        "billing_period": "month",
        "tiers": [
            {"up_to": "250000", "unit_amount": "0.00001"},
            {"up_to": None, "unit_amount": "0.0000075"},
        ],
    },
]
LIMITS = {"context_tokens": "8000000", "generated_tokens": "3000000"}


def set_up_calls() -> list[tuple[str, dict[str, Any]]]:
    """(path, body) of everything that stands before the first event, in order."""
    calls: list[tuple[str, dict[str, Any]]] = []
    for meter in METERS:
        name = meter.replace("_", " ").capitalize()
        calls.append(
            (
                "/v1/meters",
                {
                    "key": meter,
                    "name": name,
                    "event_type": EVENT_TYPE,
                    "aggregation": "sum",
                    "value": f"$.{meter}",
                    "group_by": ["model"],
                },
            )
        )
        calls.append(("/v1/features", {"key": meter, "name": name, "type": "metered", "meter": meter}))
    entitlements = [
        {"feature": feature, "limit": limit, "reset": "billing_period", "enforcement": "hard"}
        for feature, limit in LIMITS.items()
    ]
    calls.append(
        (
            "/v1/plans",
            {"key": PLAN, "name": "Assistant", "currency": "USD", "prices": PRICES, "entitlements": entitlements},
        )
    )
    for external_id, name in CUSTOMERS.items():
        body = {"external_id": external_id, "name": name, "currency": "USD", "timezone": "UTC"}
        calls.append(("/v1/customers", body | {"subjects": [f"{external_id}-prod"]}))
    return calls


def subscription_call(customer: str, *, start_at: datetime) -> tuple[str, dict[str, Any]]:
    """(path, body) of one customer's subscription."""
    return "/v1/subscriptions", {"customer": customer, "plan": PLAN, "start_at": format_instant(start_at)}


def event_of(request: Request) -> dict[str, Any]:
    """The event that a customer's service would send for one request."""
    return {
        "id": f"request-{request.row}",
        "source": "demo",
        "type": EVENT_TYPE,
        "subject": f"{TURNS[request.row % len(TURNS)]}-prod",
        "time": format_instant(request.at),
        "data": {
            "model": MODELS[request.row % len(MODELS)],
            "context_tokens": request.context_tokens,
            "generated_tokens": request.generated_tokens,
        },
    }
