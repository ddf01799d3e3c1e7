"""Pricing with nothing stored: what a quantity costs, what an invoice comes to. Straight to the one engine."""

from typing import Annotated, Any

from fastapi import Body
from starlette.responses import Response

from ingestion_api.idempotency import ReadCall
from ingestion_api.routing import house_router
from pricing.cases import invoice_given, quote_given

router = house_router("pricing")

Given = Annotated[dict[str, Any], Body()]


@router.post("/v1/pricing/quote", response_model=dict[str, Any], operation_id="quote_price")
def quote_price(given: Given, call: ReadCall) -> Response:
    """What `price` costs in `currency` for a `quantity`, `transactions`, `groups` or `buckets`, and why."""
    return call.compute(lambda: quote_given(given))


@router.post("/v1/pricing/invoice", response_model=dict[str, Any], operation_id="price_invoice")
def price_invoice(given: Given, call: ReadCall) -> Response:
    """What an invoice of `lines`, with discounts, taxes, credits and a commitment, comes to, and why."""
    return call.compute(lambda: invoice_given(given))
