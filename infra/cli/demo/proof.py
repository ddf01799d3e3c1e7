"""The proof: what every customer must owe, worked out by hand from the CSV alone.

Nothing of the pipeline is used here, not its prices, not its arithmetic, not its reading of the file: only `csv` and
`decimal`. If this and the invoices agree to the last digit, neither has made a mistake that the other has not.
"""

import csv
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

CENT = Decimal("0.01")
BASE_FEE = Decimal("49.00")


@dataclass(slots=True, kw_only=True)
class Expected:
    """One customer's month. Tokens are by model; amounts are in USD."""

    context: dict[str, int] = field(default_factory=dict[str, int])
    generated: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def context_tokens(self) -> int:
        return sum(self.context.values())

    @property
    def generated_tokens(self) -> int:
        return sum(self.generated.values())

    @property
    def context_amount(self) -> Decimal:
        """500,000 free, the next 2,000,000 at 2.50 a million, the rest at 1.80 a million."""
        billable = Decimal(max(self.context_tokens - 500_000, 0))
        exact = min(billable, Decimal(2_000_000)) * Decimal("2.50") / 1_000_000
        exact += max(billable - 2_000_000, Decimal(0)) * Decimal("1.80") / 1_000_000
        return exact.quantize(CENT, ROUND_HALF_UP)

    @property
    def generated_amount(self) -> Decimal:
        """The first 250,000 at 10.00 a million, the rest at 7.50 a million."""
        tokens = Decimal(self.generated_tokens)
        exact = min(tokens, Decimal(250_000)) * Decimal(10) / 1_000_000
        exact += max(tokens - 250_000, Decimal(0)) * Decimal("7.50") / 1_000_000
        return exact.quantize(CENT, ROUND_HALF_UP)

    @property
    def total(self) -> Decimal:
        return BASE_FEE + self.context_amount + self.generated_amount


def expect(path: Path) -> dict[str, Expected]:
    """What each customer used and owes, by external_id. Of every ten rows, 0 2 4 7 are Aurora's, 1 5 9 Birch's, 3 8
    Cobalt's and 6 Delta's; every third row, from the first, asked the large model."""
    owners = "ABACABDACB"
    names = {"A": "aurora-labs", "B": "birch-media", "C": "cobalt-robotics", "D": "delta-desk"}
    months = {name: Expected() for name in names.values()}
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines)
        context_at, generated_at = header.index("ContextTokens"), header.index("GeneratedTokens")
        for number, line in enumerate(lines):
            month = months[names[owners[number % 10]]]
            model = "atlas-large" if number % 3 == 0 else "atlas-small"
            month.context[model] = month.context.get(model, 0) + int(line[context_at])
            month.generated[model] = month.generated.get(model, 0) + int(line[generated_at])
    return months
