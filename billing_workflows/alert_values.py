"""What alerts are compared with: usage, balances and costs as they are now, of many customers at once."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from billing_workflows.doors import Doors
from infra.clickhouse.metering import measure
from infra.clickhouse.usage import query_usage, usage_totals
from infra.clickhouse.usage_query import Span, UsageKey, UsageQuery
from infra.postgres import alerts, entitlements
from infra.postgres.alerts import Crossing
from infra.postgres.billed_usage import load_begun
from infra.postgres.billing import load_meters, load_subscriptions
from infra.postgres.counters import load_used
from infra.postgres.holds import HoldKey, load_reserved
from infra.postgres.meters import load_entries
from infra.postgres.pool import PgConnection, Row
from infra.postgres.shards import counters_as_of
from infra.postgres.test_clocks import load_nows
from pricing.billing import price_statement, usage_needs
from pricing.entitlement_terms import carried_into, formers_of, in_effect_at, limit_with, period_of
from pricing.entitlements import Allowance, EntitlementPeriod, Reset, entitlement_period, stack
from pricing.statements import next_statement
from pricing.terms import read_terms
from pricing.thresholds import statement_so_far
from schemas.catalogue import MeterEntry
from schemas.meters import Aggregation
from schemas.money import EXACT, from_minor

CUSTOMERS_A_PAGE = 1_000
PLACES_A_PAGE = 1_000  # pairs of a time zone and a test clock that a tenant's customers have
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR = datetime(2200, 1, 1, tzinfo=UTC)
HUNDRED = Decimal(100)


class _Window(NamedTuple):
    """A period, and up to where it is measured."""

    start: datetime
    end: datetime
    until: datetime


def has_crossed(alert: Row, crossing: Crossing) -> bool:
    """Whether a value has come to the threshold: a wallet's from above, all others from below."""
    if alert["wallet_id"] is not None:
        return crossing.value <= alert["amount"]
    if alert["percent"] is None:
        return crossing.value >= alert["amount"]
    if crossing.limit is None or not crossing.value:
        return False
    return EXACT.multiply(crossing.value, HUNDRED) >= EXACT.multiply(crossing.limit, alert["percent"])


def find_crossings(
    doors: Doors, alert: Row, *, shards: int, now: datetime, since: datetime
) -> Iterator[Sequence[Crossing]]:
    """Page by page, who has come to the threshold of an alert (of a meter, feature, subscription) in the periods of
    `now` and of `since`; customers of test clocks in that of what their clock shows.

    No transaction is held while ClickHouse works. Raises Reject when usage can't be measured.
    """
    if alert["meter_id"] is not None:
        found = _meter_crossings(doors, alert, now, since)
    elif alert["feature_id"] is not None:
        found = _feature_crossings(doors, alert, shards, now, since)
    else:
        found = _subscription_crossings(doors, alert, now)
    for page in found:
        yield [crossing for crossing in page if has_crossed(alert, crossing)]


def wallet_balance(connection: PgConnection, alert: Row, now: datetime) -> Crossing:
    """The balance of an alert's wallet at `now`. Locks the alert: one at a time judges a balance."""
    connection.execute("SELECT 1 FROM alerts WHERE id = %s FOR UPDATE", (alert["id"],))
    row = alerts.load_balance(connection, wallet_id=alert["wallet_id"])
    return Crossing(
        customer_id=row["customer_id"],
        customer=row["customer"],
        period_start=now,
        period_end=None,
        value=from_minor(row["balance_minor"], row["currency"]),
    )


def _instants(
    connection: PgConnection, rows: Sequence[Row], now: datetime, since: datetime
) -> Mapping[str | None, list[datetime]]:
    """By test clock (None: without one), at which instants its customers are judged, the last one first."""
    clock_ids = sorted({row["test_clock_id"] for row in rows} - {None})
    nows = load_nows(connection, clock_ids) if clock_ids else {}
    return {None: [now, since]} | {clock_id: [at] for clock_id, at in nows.items()}


def _meter_crossings(doors: Doors, alert: Row, now: datetime, since: datetime) -> Iterator[list[Crossing]]:
    after: Row | None = None
    while True:
        with doors.database.transaction() as connection:
            meter = load_entries(connection, meter_nos=[alert["meter_no"]])[alert["meter_no"]]
            rows = alerts.load_places(
                connection,
                tenant_id=alert["tenant_id"],
                customer_id=alert["customer_id"],
                after=after,
                limit=PLACES_A_PAGE,
            )
            instants = _instants(connection, rows, now, since)
        yield from _crossings_at(doors, alert, meter, rows, instants)
        if len(rows) < PLACES_A_PAGE:
            return
        after = rows[-1]


def _crossings_at(
    doors: Doors,
    alert: Row,
    meter: MeterEntry,
    rows: Sequence[Row],
    instants: Mapping[str | None, Sequence[datetime]],
) -> Iterator[list[Crossing]]:
    """Of the customers at these places: those of one window are asked for together."""
    places: dict[_Window, dict[tuple[str, str | None], None]] = {}
    for row in rows:
        for at in instants[row["test_clock_id"]]:
            window = _window(alert, row["timezone"], at, is_average=meter.aggregation is Aggregation.WEIGHTED_SUM)
            places.setdefault(window, {})[row["timezone"], row["test_clock_id"]] = None
    for window, own in places.items():
        query = UsageQuery(
            tenant_no=alert["tenant_no"],
            meter=meter,
            customer_nos=None if alert["customer_no"] is None else [alert["customer_no"]],
            start=window.start,
            end=window.until,
            bounds=[window.start, window.until],
            by_customer=True,
        )
        after: UsageKey | None = None
        while True:
            page = query_usage(doors.clickhouse, query, after=after, limit=CUSTOMERS_A_PAGE)
            values = {key.customer_no: value for key, value in page.items() if value >= alert["amount"]}
            if values:
                with doors.database.transaction() as connection:
                    customers = alerts.load_at_places(connection, list(values), list(own))
                yield [
                    Crossing(
                        customer_id=customer["id"],
                        customer=customer["external_id"],
                        period_start=window.start,
                        period_end=window.end,
                        value=values[customer["no"]],
                    )
                    for customer in customers
                ]
            if len(page) < CUSTOMERS_A_PAGE:
                break
            after = max(page)


def _window(alert: Row, timezone: str, at: datetime, *, is_average: bool) -> _Window:
    """The day, week or month of the calendar; an average over time is that of the period so far."""
    period = entitlement_period(at, Reset(alert["period"]), starts_at=EPOCH, timezone=timezone, billing_anchor=EPOCH)
    assert period.end is not None
    until = min(period.end, max(at, period.start + datetime.resolution)) if is_average else period.end
    return _Window(period.start, period.end, until)


def _feature_crossings(
    doors: Doors, alert: Row, shards: int, now: datetime, since: datetime
) -> Iterator[list[Crossing]]:
    after_id = ""
    while True:
        with doors.database.transaction() as connection:
            ids = alerts.load_entitled(
                connection,
                feature_id=alert["feature_id"],
                customer_id=alert["customer_id"],
                after_id=after_id,
                limit=CUSTOMERS_A_PAGE,
            )
            rows = entitlements.load_of_customers(
                connection, tenant_id=alert["tenant_id"], customer_ids=ids, feature_ids=[alert["feature_id"]]
            )
            instants = _instants(connection, rows, now, since)
        for place in range(2):
            judged = [
                {**row, "at": at[place], "is_present": place == 0}
                for row in rows
                if len(at := instants[row["test_clock_id"]]) > place and in_effect_at(row, at[place])
            ]
            if judged:
                yield _stand(doors, alert, judged, rows, shards, now)
        if len(ids) < CUSTOMERS_A_PAGE:
            return
        after_id = ids[-1]


def _stand(
    doors: Doors, alert: Row, rows: Sequence[Row], all_rows: Sequence[Row], shards: int, now: datetime
) -> list[Crossing]:
    """What each customer has used and reserved of its entitlements together, at the `at` of the rows. `all_rows`: of
    these customers, in effect or not."""
    periods = {row["no"]: period_of(row, row["at"]) for row in rows}
    formers = formers_of(rows, all_rows, periods)
    spans = [(row, periods[row["no"]]) for row in rows]
    spans += [(row, formers[row["no"]].period) for row in rows if row["no"] in formers]
    with doors.database.snapshot() as connection:  # what is held falls away in the transaction that counts it
        counted = load_used(connection, [(row["no"], period.start) for row, period in spans], shards=shards)
        as_of = counters_as_of(connection, topic=doors.events_topic, partitions=doors.events_partitions)
        keys = sorted({HoldKey(row["customer_id"], row["feature_id"]) for row in rows if row["is_present"]})
        reserved = load_reserved(connection, keys, now=now, as_of=as_of)
        meters = load_entries(connection, meter_nos=[rows[0]["meter_no"]])
    missing = {
        (row["no"], period.start): Span(
            customer_no=row["customer_no"],
            meter_no=row["meter_no"],
            start=period.start,
            end=_measured_until(row, period, meters[row["meter_no"]].aggregation),
        )
        for row, period in spans
        if (row["no"], period.start) not in counted
    }
    totals = usage_totals(doors.clickhouse, tenant_no=alert["tenant_no"], meters=meters, spans=list(missing.values()))
    used = {**counted, **{key: totals[span].whole or Decimal(0) for key, span in missing.items()}}
    present = {no: used[no, period.start] for no, period in periods.items()}
    carried = carried_into(rows, formers, {no: used[no, each.period.start] for no, each in formers.items()})
    by_customer: dict[str, list[Row]] = {}
    for row in rows:
        by_customer.setdefault(row["customer_id"], []).append(row)
    return [
        _standing(own, periods, present, carried, reserved.get(HoldKey(customer_id, alert["feature_id"]), Decimal(0)))
        for customer_id, own in by_customer.items()
    ]


def _standing(
    rows: Sequence[Row],
    periods: Mapping[int, EntitlementPeriod],
    used: Mapping[int, Decimal],
    carried: Mapping[int, Decimal],
    reserved: Decimal,
) -> Crossing:
    whole = stack(
        [
            Allowance(limit=limit_with(row, carried), used=used[row["no"]], since=periods[row["no"]].start)
            for row in rows
        ],
        Aggregation(rows[0]["aggregation"]),
    )
    period = min((periods[row["no"]] for row in rows), key=lambda each: each.end or FAR)
    return Crossing(
        customer_id=rows[0]["customer_id"],
        customer=rows[0]["customer"],
        period_start=period.start,
        period_end=period.end,
        value=EXACT.add(whole.used, reserved),
        limit=whole.limit,
    )


def _measured_until(row: Row, period: EntitlementPeriod, aggregation: Aggregation) -> datetime:
    end = period.end or FAR
    if aggregation is Aggregation.WEIGHTED_SUM:
        end = min(end, max(row["at"], period.start + datetime.resolution))
    return end


def _subscription_crossings(doors: Doors, alert: Row, now: datetime) -> Iterator[list[Crossing]]:
    """What the usage of the open period costs that no invoice has yet, as threshold invoices reckon it."""
    with doors.database.transaction() as connection:
        (subscription,) = load_subscriptions(connection, [alert["subscription_id"]])
        clock_id = subscription.test_clock_id
        at = now if clock_id is None else load_nows(connection, [clock_id])[clock_id]
        meters = load_meters(connection, [subscription.tenant_id])
        terms = read_terms(subscription)
        following = next_statement(terms)
        if following is None:
            return
        # A period that has ended and is not invoiced yet is open still.
        statement = statement_so_far(terms, following, min(at, following.at - datetime.resolution))
        if statement is None:
            return
        start = min(line.period.start for line in statement.lines)
        progress = load_begun(connection, {subscription.id: start}).get(subscription.id, ())
    measured = measure(doors.clickhouse, usage_needs(subscription, statement, meters))
    invoice = price_statement(terms, statement, measured.of(subscription.id), progress=progress)
    yield [
        Crossing(
            customer_id=subscription.customer_id,
            customer=subscription.external_id,
            period_start=statement.period.start,
            period_end=following.at,
            value=invoice.subtotal,
        )
    ]
