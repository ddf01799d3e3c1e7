"""Who collects money for invoices."""

from enum import StrEnum


class Provider(StrEnum):
    """`manual`: money that came by itself, e.g. by bank transfer; whoever tells of it has seen it, so its payments have
    succeeded when they are stored. One that collects by itself stores a pending payment first, charges under the
    payment's id outside of any transaction, and notes the outcome then."""

    MANUAL = "manual"
