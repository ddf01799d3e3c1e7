"""Single values that a meter took, in the order of time: what a price of every transaction is applied to.

They are read from the facts about events and judged as parts of minutes are. Order: by the event's own time, then by
receipt and place in the log, as `latest` orders.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.taken import taken_from
from infra.clickhouse.usage_query import SPANS_SQL, Span, span_parameters
from infra.clickhouse.values import PLACE_SQL, SETTINGS, bounded_memory
from schemas.catalogue import MeterEntry
from schemas.errors import Reject

#: Values of one line that are held at once.
MAX_TRANSACTIONS = 100_000
ROWS_A_BLOCK = 10_000
SPANS_A_QUERY = 1_000

_TOO_LARGE = ("usage.too_many_transactions", "too many events to price each for itself; take shorter periods")
_FACTS_SQL = (
    "tenant_no = {tenant_no:UInt32} AND type = {type:String} AND customer_no IN {customers:Array(UInt64)}"
    " AND occurred_at >= fromUnixTimestamp64Micro({first:Int64}, 'UTC')"
    " AND occurred_at < fromUnixTimestamp64Micro({last:Int64}, 'UTC')"
    # The hour is a part of the table's key.
    " AND toStartOfHour(occurred_at) >= toStartOfHour(fromUnixTimestamp64Micro({first:Int64}, 'UTC'))"
    " AND toStartOfHour(occurred_at) <= toStartOfHour(fromUnixTimestamp64Micro({last:Int64}, 'UTC'))"
)
_LOG_SQL = "kafka_partition, kafka_offset, kafka_index"


def span_transactions(
    client: Client, *, tenant_no: int, meters: Mapping[int, MeterEntry], spans: Sequence[Span]
) -> dict[Span, list[Decimal]]:
    """What every event gave its meter that counts in the span, in order. Every meter that a span names is in `meters`.

    Raises Reject `usage.too_many_transactions` for a span with more than MAX_TRANSACTIONS.
    """
    found: dict[Span, list[Decimal]] = {span: [] for span in spans}
    for meter_no in sorted({span.meter_no for span in found}):
        own = [span for span in found if span.meter_no == meter_no]
        for start in range(0, len(own), SPANS_A_QUERY):
            with bounded_memory(_TOO_LARGE):
                _read(client, tenant_no, meters[meter_no], own[start : start + SPANS_A_QUERY], found)
    return found


def _read(
    client: Client, tenant_no: int, meter: MeterEntry, spans: Sequence[Span], found: dict[Span, list[Decimal]]
) -> None:
    parameters = span_parameters({meter.meter_no: meter}, spans)
    blocks = client.query_row_block_stream(
        "SELECT place, data FROM"  # noqa: S608 - texts of this package
        f" (SELECT customer_no, occurred_at, received_at, {_LOG_SQL}, data FROM events FINAL"
        f"  WHERE {_FACTS_SQL} AND effect = 1 AND ({_LOG_SQL}) NOT IN"
        f"  (SELECT {_LOG_SQL} FROM events WHERE {_FACTS_SQL} AND effect = -1)) AS stored"
        f" INNER JOIN {SPANS_SQL} AS wanted USING (customer_no)"
        " WHERE toUnixTimestamp64Micro(occurred_at) >= wanted.first"
        " AND toUnixTimestamp64Micro(occurred_at) < wanted.last"
        f" ORDER BY place, {PLACE_SQL}",
        parameters=parameters | {"tenant_no": tenant_no, "type": meter.event_type},
        settings=SETTINGS | {"max_block_size": ROWS_A_BLOCK},
    )
    with blocks:
        for block in blocks:
            for place, text in block:
                taken = taken_from(meter, text)
                if taken is None:
                    continue
                values = found[spans[place]]
                values.append(taken[1])
                if len(values) > MAX_TRANSACTIONS:
                    raise Reject(
                        "usage.too_many_transactions",
                        f"more than {MAX_TRANSACTIONS} transactions in a period can't be priced one by one",
                    )
