"""How many invoices a second one core prices: five graduated lines each, every line explained. No I/O, no processes.

python -m bench.pricing [--seconds 5]
"""

import argparse
import time
from decimal import Decimal

from pricing.charges import parse_price
from pricing.invoices import InvoiceInput, PricedLine, compute
from pricing.usage import Usage

LINES = 5
BATCH = 1_000  # invoices between two looks at the clock
GOAL_PER_SECOND = 50_000

PRICE = {
    "model": "graduated",
    "tiers": [
        {"up_to": "1000", "unit_amount": "0.05", "flat_amount": "2"},
        {"up_to": "10000", "unit_amount": "0.04"},
        {"up_to": None, "unit_amount": "0.03"},
    ],
}
QUANTITIES = ("12345.678901234567", "999", "10000", "54321.5", "0")
SUBTOTAL = Decimal("2689.97")  # 482.37 + 51.95 + 412 + 1741.65 + 2


def invoice() -> InvoiceInput:
    """An invoice whose lines end in different tiers."""
    price = parse_price(PRICE)
    lines = [PricedLine(price=price, usage=Usage(quantity=Decimal(quantity))) for quantity in QUANTITIES]
    assert len(lines) == LINES
    return InvoiceInput(currency="USD", lines=lines)


def measure(seconds: int) -> int:
    """Invoices priced in a second of processor time."""
    given = invoice()
    done = 0
    start = time.process_time_ns()
    while (spent := time.process_time_ns() - start) < seconds * 1_000_000_000:
        for _ in range(BATCH - 1):
            compute(given)
        assert compute(given).subtotal == SUBTOTAL
        done += BATCH
    return done * 1_000_000_000 // spent


def main() -> None:
    parser = argparse.ArgumentParser(prog="meterline bench pricing", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, 61), metavar="1–60")
    rate = measure(parser.parse_args().seconds)
    print(f"{rate:,} invoices of {LINES} graduated lines a second and core (goal {GOAL_PER_SECOND:,})")


if __name__ == "__main__":
    main()
