"""Tax rates as customers have them → taxes of the engine, and what each came to, as the invoice keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pricing.explain import ZERO
from pricing.fields import Fields
from pricing.invoices import ComputedInvoice
from pricing.taxes import PercentTax
from schemas.billing import InvoiceTax
from schemas.money import exactly


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxRate:
    """A named percentage. What it is to be paid for and to whom is its owner's to know."""

    key: str
    name: str
    percent: Decimal
    inclusive: bool

    @property
    def tax(self) -> PercentTax:
        return PercentTax(percent=self.percent, inclusive=self.inclusive)


def read_tax_rates(bodies: Sequence[Mapping[str, object]]) -> tuple[TaxRate, ...]:
    """Stored rates: `{key, name, percent, inclusive}` each."""
    return tuple(_read_tax_rate(Fields(body)) for body in bodies)


def _read_tax_rate(fields: Fields) -> TaxRate:
    return TaxRate(
        key=fields.text("key"),
        name=fields.text("name"),
        percent=fields.decimal("percent", at_least=ZERO),
        inclusive=fields.flag("inclusive", False),
    )


@exactly
def list_taxes(rates: Sequence[TaxRate], computed: ComputedInvoice) -> tuple[InvoiceTax, ...]:
    """What each rate came to. An inclusive one stands on subtotal − discount, an exclusive one on the net of that."""
    base = computed.subtotal - computed.discount
    net = base - sum((tax for rate, tax in zip(rates, computed.taxes, strict=True) if rate.inclusive), ZERO)
    return tuple(
        InvoiceTax(
            key=rate.key,
            name=rate.name,
            percent=rate.percent,
            inclusive=rate.inclusive,
            base=base if rate.inclusive else net,
            amount=amount,
        )
        for rate, amount in zip(rates, computed.taxes, strict=True)
    )
