"""Price a month of usage with the engine alone: no server, no network, nothing stored.

Run it: `.venv/bin/python examples/pricing_alone.py`
"""

from decimal import Decimal

from pricing.charges import parse_price
from pricing.rating import quote

PRICE = parse_price(
    {
        "model": "graduated",
        "included_quantity": "500000",
        "tiers": [
            {"up_to": "2000000", "unit_amount": "0.0000025"},
            {"up_to": None, "unit_amount": "0.0000018"},
        ],
    }
)


def main() -> None:
    """Print the cost of 8,920,957 tokens and the rows that add up to it."""
    cost = quote(PRICE, currency="USD", quantity=Decimal(8920957))
    for row in cost.explain:
        print(f"{row.what:<40} {row.quantity or '':>12} × {row.unit_amount or '':<10} = {row.amount}")
    print(f"{'exact':<40} {cost.exact}")
    print(f"{'on the invoice':<40} {cost.amount} USD")


if __name__ == "__main__":
    main()
