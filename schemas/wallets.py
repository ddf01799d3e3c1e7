"""Words of wallets that processes share: kinds of grants, accounts of the ledger and types of its transactions."""

from enum import StrEnum

DEFAULT_PRIORITY = 50  # of a grant; lower ones burn first


class GrantKind(StrEnum):
    """Where a grant's money comes from: the customer paid for it, it was given, or an invoice owed it."""

    PAID = "paid"
    PROMOTIONAL = "promotional"
    CREDIT = "credit"


class GrantStatus(StrEnum):
    """`unpaid` waits for the payment of its top-up, `scheduled` for its start."""

    UNPAID = "unpaid"
    SCHEDULED = "scheduled"
    ACTIVE = "active"
    EXPIRED = "expired"
    VOIDED = "voided"


class Account(StrEnum):
    """`balance` (of one grant) and `overdraft` are the customer's; the others say where it came from or went."""

    BALANCE = "balance"
    OVERDRAFT = "overdraft"
    PAYMENT = "payment"
    PROMOTION = "promotion"
    CREDIT = "credit"
    INVOICE = "invoice"
    EXPIRED = "expired"


#: Against which account a grant gives its money.
SOURCES = {
    GrantKind.PAID: Account.PAYMENT,
    GrantKind.PROMOTIONAL: Account.PROMOTION,
    GrantKind.CREDIT: Account.CREDIT,
}


class TransactionType(StrEnum):
    GRANT = "grant"
    REFILL = "refill"
    EXPIRY = "expiry"
    VOID = "void"
    INVOICE = "invoice"
    INVOICE_VOID = "invoice_void"
    OVERDRAFT = "overdraft"  # a grant that makes up for what the wallet owed
