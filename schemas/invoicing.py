"""How a tenant invoices: what its settings say, and who stands on an invoice."""

import msgspec

MAX_DRAFT_HOURS = 720
MAX_NET_DAYS = 365


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


class BillingSettings(msgspec.Struct, frozen=True):
    """A tenant's settings of billing, defaults for what it never set. Other settings beside them are passed by."""

    draft_hours: int = 0  # how long an invoice stands as a draft; 0: it is finalized at once
    net_days: int = 0  # from finalization to due_at
    invoice_prefix: str = "INV"
    credit_note_prefix: str = "CN"
    locale: str = "en"  # of documents to customers that have none of their own
    seller: Seller = Seller()
    footer: str | None = None  # below every invoice, e.g. where to pay


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
