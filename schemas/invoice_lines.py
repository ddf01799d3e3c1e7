"""Ids of invoice lines. They follow from what the line is of, so a preview has those that its invoice will have."""

from datetime import datetime
from uuid import UUID, uuid5

from schemas.ids import Prefix
from schemas.instants import format_instant

NAMESPACE = UUID("6f0d8a3e-5b1c-4e0f-9c39-2d7a51c0b4aa")  # random, and never to be changed


def line_id(
    *, invoice_id: str | None, subscription_id: str | None, kind: str, period_end: datetime, position: int
) -> str:
    """The id of a line by its position: of a subscription's statement, or else of an invoice of its own."""
    if subscription_id is None:
        assert invoice_id is not None
        source = invoice_id
    else:
        source = f"{subscription_id}/{kind}/{format_instant(period_end)}"
    return f"{Prefix.INVOICE_LINE}_{uuid5(NAMESPACE, f'{source}/{position}').hex}"
