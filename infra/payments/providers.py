"""Who collects money for invoices, and what is known after one has been asked."""

from dataclasses import dataclass
from enum import StrEnum


class Provider(StrEnum):
    """`manual`: money that came by itself, e.g. by bank transfer; whoever tells of it has seen it, so its payments have
    succeeded when they are stored. One that collects by itself stores a pending payment first, charges under the
    payment's id outside of any transaction, and notes the outcome then."""

    MANUAL = "manual"
    STRIPE = "stripe"


class Result(StrEnum):
    """`unknown`: no answer, or none that says whether money moved; ask again."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PROCESSING = "processing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a provider said of a charge or a refund. `reference` is its own name of it, None when it gave none."""

    result: Result
    reference: str | None = None
    failure_code: str | None = None
    decline_code: str | None = None


ANSWER_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A tenant's account at a provider. `api_base` empty: where the provider's library goes by itself. After
    `answer_seconds` without an answer the outcome is not known."""

    secret_key: str
    api_base: str = ""
    answer_seconds: int = ANSWER_SECONDS


#: A provider forgets an idempotency key after 24 hours. Before that, and with an hour to spare, nothing is sent anew
#: under a key that may be forgotten: then only a look at what the provider has decides.
KEY_HOURS = 23
