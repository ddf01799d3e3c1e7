"""What a rule is, and what it is of."""

from dataclasses import dataclass
from enum import StrEnum
from typing import LiteralString


class Of(StrEnum):
    """The kind of object that a rule is of; its value is the table."""

    INVOICE = "invoices"
    SUBSCRIPTION = "subscriptions"
    WALLET = "wallets"
    TENANT = "tenants"
    CUSTOMER = "customers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`query` gives the `id` of those of `%(ids)s` for which the rule does not hold, perhaps more than once.

    `parks`: a subscription that breaks it is not billed on until a person has looked. `advice` says what to do next.
    """

    name: str
    of: Of
    query: LiteralString
    advice: str
    parks: bool = False
