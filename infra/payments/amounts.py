"""Amounts as Stripe wants them: in minor units, but for a few currencies that it counts in its own way.

See "Supported currencies" of Stripe's documentation.
"""

from schemas.money import currency_exponent

#: ISO gives them no minor unit, Stripe two digits that must be zero; or the reverse for MGA, which it takes whole.
_TWO_ZEROS = frozenset({"ISK", "UGX"})
_WHOLE = frozenset({"MGA"})
_THREE_DIGITS = 3


def to_stripe(minor: int, currency: str) -> int:
    """Minor units of ISO 4217 as Stripe's. Raises ValueError for an amount that it can't charge to the unit."""
    if currency in _TWO_ZEROS:
        return minor * 100
    if currency in _WHOLE:
        whole, rest = divmod(minor, 100)
        if rest:
            raise ValueError(f"Stripe takes {currency} in whole units only")
        return whole
    if currency_exponent(currency) == _THREE_DIGITS and minor % 10:
        raise ValueError(f"Stripe takes {currency} with a zero at the end only")
    return minor
