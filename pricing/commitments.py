"""A subscription's commitment: over the usage of each statement, or over that of a period of its own."""

from collections.abc import Mapping
from dataclasses import dataclass

from pricing.charges import Commitment, read_commitment
from pricing.fields import INVALID_FIELD, Fields
from pricing.periods import MAX_BILLING_PERIOD_COUNT, BillingPeriod

OWN_PERIOD = ("billing_period", "billing_period_count")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedCommitment:
    """A commitment; `billing_period` None: every statement with usage is held against it."""

    commitment: Commitment
    billing_period: BillingPeriod | None = None
    billing_period_count: int = 1


def read_agreed_commitment(body: Mapping[str, object], pointer: str = "") -> AgreedCommitment:
    """`{amount, overage_factor?, true_up?, billing_period?, billing_period_count?}`. Raises Reject `pricing.invalid_*`
    or `request.unknown_field`."""
    fields = Fields(body, pointer)
    period = None
    if fields.has("billing_period"):
        period = fields.choice("billing_period", BillingPeriod)
        if period is BillingPeriod.ONCE:
            raise fields.wrong("billing_period", INVALID_FIELD, "a commitment recurs")
    count = fields.integer("billing_period_count", 1, at_least=1, at_most=MAX_BILLING_PERIOD_COUNT)
    rest = {name: value for name, value in body.items() if name not in OWN_PERIOD}
    return AgreedCommitment(
        commitment=read_commitment(Fields(rest, pointer)), billing_period=period, billing_period_count=count
    )
