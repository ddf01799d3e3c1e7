"""What a meter took of a stored fact that counts. Parts of minutes, counters and the proof ask here."""

from decimal import Decimal

from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.matching import event_groups, event_value, matches, parse_data


def taken_from(meter: MeterEntry, text: str) -> tuple[tuple[str, ...], Decimal] | None:
    """Group and value that the meter took from the data of an event that counts; None when it took nothing.

    An event that the meter can't read was judged before the meter was there: others count it, this one does not.
    """
    try:
        data = parse_data(text)
        value = event_value(meter, data) if matches(meter, data) else None
        return None if value is None else (event_groups(meter, data), value)
    except Reject:
        return None
