"""How a tenant invoices: what its settings say, and who stands on an invoice."""

from datetime import timedelta
from enum import StrEnum

import msgspec

MAX_DRAFT_HOURS = 720
MAX_NET_DAYS = 365
MAX_DUNNING_STEPS = 20  # retries of one invoice, and as many reminders
MAX_DUNNING_DAYS = 365  # after due_at
DEFAULT_FINAL_DAYS = 30
OVERDUE_AFTER = timedelta(days=1)  # after due_at: what is due today is not late today


class Address(msgspec.Struct, frozen=True, omit_defaults=True):
    """A postal address; `country` is an ISO 3166 code of two letters."""

    line1: str | None = None
    line2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class Seller(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who issues the invoices. Without a name it is the tenant's."""

    name: str | None = None
    email: str | None = None
    tax_id: str | None = None  # a VAT number, e.g. DE123456789
    legal_id: str | None = None  # of the company in its register
    address: Address = Address()


class FinalStep(StrEnum):
    """What becomes of an invoice that was never paid."""

    KEEP = "keep"  # it stays open
    UNCOLLECTIBLE = "uncollectible"  # it is given up
    CANCEL = "cancel"  # so is it, and its subscription is canceled


class Invoicing(StrEnum):
    """What a payer gets for several subscriptions that are due at one instant."""

    PER_SUBSCRIPTION = "per_subscription"  # an invoice of each
    CONSOLIDATED = "consolidated"  # one of all in a currency


class Dunning(msgspec.Struct, frozen=True):
    """What is done about an overdue invoice. Days count from due_at; `retry_days` and `reminder_days` rise."""

    retry_days: tuple[int, ...] = ()  # when the payer's payment method is charged once more
    reminder_days: tuple[int, ...] = ()
    block_days: int | None = None  # from when on the subscription's features are refused; None: they never are
    final: FinalStep = FinalStep.KEEP
    final_days: int = DEFAULT_FINAL_DAYS  # when the final step is taken, if there is one


class DunningProgress(msgspec.Struct, frozen=True):
    """The schedule of one invoice, and how far it is: all that it says up to `day` is behind it."""

    schedule: Dunning = Dunning()
    day: int = 0
    attempts: int = 0  # at charging the payer
    reminders: int = 0


class BillingSettings(msgspec.Struct, frozen=True):
    """A tenant's settings of billing, defaults for what it never set. Other settings beside them are passed by."""

    invoicing: Invoicing = Invoicing.PER_SUBSCRIPTION  # of customers who have none of their own
    draft_hours: int = 0  # how long an invoice stands as a draft; 0: it is finalized at once
    net_days: int = 0  # from finalization to due_at
    invoice_prefix: str = "INV"
    credit_note_prefix: str = "CN"
    locale: str = "en"  # of documents to customers that have none of their own
    seller: Seller = Seller()
    footer: str | None = None  # below every invoice, e.g. where to pay
    dunning: Dunning | None = None  # None: of an overdue invoice is told, and that is all


class Buyer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom an invoice is for."""

    name: str
    external_id: str
    email: str | None = None
    tax_id: str | None = None
    address: Address = Address()


class Parties(msgspec.Struct, frozen=True, omit_defaults=True):
    """Seller and buyer as they were when an invoice was finalized, and how its document is written."""

    seller: Seller
    buyer: Buyer
    locale: str
    timezone: str
    footer: str | None = None
