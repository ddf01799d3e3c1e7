"""Which stored events a meter took: that a raw row is `counted` says that some meter did, and not which.

A meter is in use from when it is made until it is archived, and a batch knows one state of the catalogue. So a meter
has judged the batches of a shard from the first to the last that it took anything in; what it took of others is
nothing. Counters, parts of minutes and the proof all ask here.
"""

from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple

from infra.clickhouse.client import Client
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.matching import event_groups, event_value, matches, parse_data


class Batches(NamedTuple):
    """The first and the last batch of a shard that a meter took anything in."""

    first_seq: int
    last_seq: int


def judged_batches(client: Client, meters: Collection[MeterEntry]) -> dict[tuple[int, int, int], Batches]:
    """{(meter_no, revision, shard): batches}; none taken: no key."""
    rows = client.query(
        "SELECT meter_no, revision, shard, min(first_seq), max(last_seq) FROM meter_batches"
        " WHERE meter_no IN {meters:Array(UInt32)} GROUP BY meter_no, revision, shard",
        parameters={"meters": sorted({meter.meter_no for meter in meters})},
    ).result_rows
    return {(meter_no, revision, shard): Batches(*seqs) for meter_no, revision, shard, *seqs in rows}


def taken_from(meter: MeterEntry, text: str) -> tuple[tuple[str, ...], Decimal] | None:
    """Group and value that the meter took from a counted event of a batch it judged; None when it took nothing.

    An event that the meter refuses was not refused when it was judged, or it would be quarantined: it never took it.
    """
    try:
        data = parse_data(text)
        value = event_value(meter, data) if matches(meter, data) else None
        return None if value is None else (event_groups(meter, data), value)
    except Reject:
        return None
