"""Usage in the buckets that a price asks for: by the very query of usage by window, many customers at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from infra.clickhouse.client import Client
from infra.clickhouse.usage import query_usage
from infra.clickhouse.usage_query import UsageKey, UsageQuery
from schemas.billing import Buckets, GroupQuantity, MeteredUsage, UsageNeed
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.instants import Period
from schemas.money import EXACT

ROWS_A_PAGE = 100_000
CUSTOMERS_A_QUERY = 1_000
#: Buckets of one line, where groups are told apart those of every group.
MAX_BUCKETS = 100_000

Rows = list[tuple[tuple[bytes, ...], Decimal]]  # group texts and value of each bucket, in the order of time


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """What needs have in common that one query can measure."""

    tenant_no: int
    meter: MeterEntry
    period: Period
    buckets: Buckets


@dataclass(slots=True)
class _Wanted:
    customer_nos: set[int] = field(default_factory=set[int])
    places: list[int] = field(default_factory=list[int])


def measure_buckets(client: Client, needs: Sequence[UsageNeed]) -> list[MeteredUsage]:
    """The usage of each need by its buckets, in the needs' order. A bucket without usage is not there.

    Raises Reject `usage.too_many_buckets`, and what `query_usage` raises.
    """
    wanted: dict[_Cut, _Wanted] = {}
    for place, need in enumerate(needs):
        assert need.buckets is not None, "a need without buckets is measured as a whole"
        cut = _Cut(tenant_no=need.tenant_no, meter=need.meter, period=need.period, buckets=need.buckets)
        own = wanted.setdefault(cut, _Wanted())
        own.customer_nos.add(need.customer_no)
        own.places.append(place)
    found: dict[int, MeteredUsage] = {}
    for cut, own in wanted.items():
        rows = _read(client, cut, sorted(own.customer_nos))
        for place in own.places:
            found[place] = _metered(cut, rows.get(needs[place].customer_no, []))
    return [found[place] for place in range(len(needs))]


def _read(client: Client, cut: _Cut, customer_nos: Sequence[int]) -> dict[int, Rows]:
    """By customer. So many customers a query that mostly one page holds all their buckets."""
    found: dict[int, Rows] = {}
    if cut.period.start >= cut.period.end:
        return found
    size = max(1, min(CUSTOMERS_A_QUERY, ROWS_A_PAGE // len(cut.buckets.bounds)))
    for start in range(0, len(customer_nos), size):
        query = UsageQuery(
            tenant_no=cut.tenant_no,
            meter=cut.meter,
            customer_nos=customer_nos[start : start + size],
            start=cut.period.start,
            end=cut.period.end,
            bounds=cut.buckets.bounds,
            by_customer=True,
            group_by=cut.meter.group_by if cut.buckets.by_group else (),
            aggregation=cut.buckets.aggregation,
        )
        after: UsageKey | None = None
        while True:
            page = query_usage(client, query, after=after, limit=ROWS_A_PAGE)
            for key, value in page.items():
                rows = found.setdefault(key.customer_no, [])
                rows.append((key.groups, value))
                if len(rows) > MAX_BUCKETS:
                    raise Reject("usage.too_many_buckets", f"a line has more than {MAX_BUCKETS} buckets of usage")
            if len(page) < ROWS_A_PAGE:
                break
            after = max(page)
    return found


def _metered(cut: _Cut, rows: Rows) -> MeteredUsage:
    by_group: dict[tuple[bytes, ...], Decimal] = {}
    whole = Decimal(0)
    for groups, value in rows:
        whole = EXACT.add(whole, value)
        by_group[groups] = EXACT.add(by_group.get(groups, Decimal(0)), value)
    return MeteredUsage(
        meter_no=cut.meter.meter_no,
        quantity=whole,
        groups=tuple(
            GroupQuantity(group=group_of(cut.meter, [text.decode() for text in groups]), quantity=quantity)
            for groups, quantity in sorted(by_group.items())
        )
        if cut.buckets.by_group
        else (),
        quantities=() if cut.buckets.by_group else tuple(value for _, value in rows),
    )


def group_of(meter: MeterEntry, texts: Sequence[str]) -> dict[str, str | None]:
    """A full group of a meter by name: a text is `=` and the value, or empty for a missing property."""
    return {name: text[1:] if text else None for name, text in zip(meter.group_by, texts, strict=True)}
