"""What a usage price must know of its meter, and what it makes of what was measured.

Most prices need one number; a matrix needs groups, a price by bucket the usage of each bucket, a percentage with more
than a rate every transaction. Buckets are those of the calendar in the billing timezone. A period's edges cut them: a
day of which two periods have a part is a bucket in each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from pricing.charges import Bucket, Price
from pricing.explain import ZERO
from pricing.fields import INVALID_FIELD
from pricing.matrix import Group, Matrix
from pricing.models import Percentage
from pricing.periods import Alignment, BillingPeriod, schedule, zone
from pricing.usage import Usage
from schemas.billing import Buckets, MeteredUsage
from schemas.errors import Reject
from schemas.instants import Period
from schemas.meters import BUCKET_AGGREGATIONS, Aggregation
from schemas.windows import WindowSize, window_bounds

TOO_MANY_BUCKETS = "pricing.too_many_buckets"
UNFIT_METER = "pricing.unfit_meter"
MAX_BUCKETS = 50_000  # of one line: a month of minutes
KNOWN_BOUNDS = 32  # kept in memory: the subscriptions of one chunk mostly have the same periods

WINDOWS: Mapping[Bucket, WindowSize] = {
    Bucket.MINUTE: WindowSize.MINUTE,
    Bucket.HOUR: WindowSize.HOUR,
    Bucket.DAY: WindowSize.DAY,
    Bucket.WEEK: WindowSize.WEEK,
    Bucket.MONTH: WindowSize.MONTH,
}
#: No bucket is shorter, save where a change of clocks or a period's edge cuts it.
SHORTEST: Mapping[Bucket, timedelta] = {
    Bucket.MINUTE: timedelta(minutes=1),
    Bucket.HOUR: timedelta(hours=1),
    Bucket.DAY: timedelta(days=1),
    Bucket.WEEK: timedelta(days=7),
    Bucket.MONTH: timedelta(days=28),
    Bucket.QUARTER: timedelta(days=90),
    Bucket.HALF_YEAR: timedelta(days=181),
    Bucket.YEAR: timedelta(days=365),
}
LONGEST: Mapping[BillingPeriod, timedelta] = {
    BillingPeriod.DAY: timedelta(days=1),
    BillingPeriod.WEEK: timedelta(days=7),
    BillingPeriod.MONTH: timedelta(days=31),
    BillingPeriod.QUARTER: timedelta(days=92),
    BillingPeriod.HALF_YEAR: timedelta(days=184),
    BillingPeriod.YEAR: timedelta(days=366),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What a need asks for beside the whole; see `schemas.billing.UsageNeed`."""

    buckets: Buckets | None = None
    each: bool = False


def needs_each(price: Price) -> bool:
    """Whether a price needs every transaction."""
    return isinstance(price.model, Percentage) and not price.model.is_rate_alone


def check_meter(price: Price, aggregation: Aggregation, where: str = "") -> None:
    """Raise Reject `pricing.unfit_meter` for a price that the meter can't give what it needs, `pricing.invalid_field`
    for one that no meter can; with the field's pointer under `where`."""
    if needs_each(price):
        if price.bucket is not None or price.included_quantity:
            name = "included_quantity" if price.bucket is None else "bucket"
            raise Reject.at(f"{where}/{name}", INVALID_FIELD, f"Single transactions have no {name}: leave one out.")
        if aggregation is not Aggregation.SUM:
            detail = f"It prices every transaction: that needs a meter that sums their amounts, not {aggregation}."
            raise Reject.at(f"{where}/model", UNFIT_METER, detail)
    if price.bucket is not None and price.bucket_aggregation not in BUCKET_AGGREGATIONS[aggregation]:
        known = ", ".join(sorted(BUCKET_AGGREGATIONS[aggregation]))
        detail = f"Buckets of a meter of {aggregation} are aggregated by one of: {known}."
        raise Reject.at(f"{where}/bucket_aggregation", UNFIT_METER, detail)


def check_fixed(price: Price, where: str = "") -> None:
    """Raise Reject `pricing.invalid_field` for a price of transactions that has no meter to take them from."""
    if needs_each(price):
        detail = "A fixed price has no transactions: with fixed_amount, allowances or bounds it must be of usage."
        raise Reject.at(f"{where}/model", INVALID_FIELD, detail)


def check_buckets(price: Price, billing_period: BillingPeriod, count: int, where: str = "") -> None:
    """Raise Reject `pricing.too_many_buckets` when a period may have more than MAX_BUCKETS. What is billed once has
    no longest period: that is seen when it is billed."""
    if price.bucket is None or billing_period is BillingPeriod.ONCE:
        return
    if LONGEST[billing_period] * count / SHORTEST[price.bucket] > MAX_BUCKETS:
        detail = f"A period may have more than {MAX_BUCKETS:,} buckets: take larger ones, or bill more often."
        raise Reject.at(f"{where}/bucket", TOO_MANY_BUCKETS, detail)


def detail_of(price: Price, aggregation: Aggregation, period: Period, timezone: str) -> Detail:
    """What must be measured for a usage price in a period. Raises Reject as `check_meter` does, and
    `pricing.too_many_buckets`."""
    check_meter(price, aggregation)
    if price.bucket is None or price.bucket_aggregation is None:
        return Detail(each=needs_each(price))
    return Detail(
        buckets=Buckets(
            bounds=bucket_bounds(price.bucket, period, timezone),
            aggregation=price.bucket_aggregation,
            by_group=isinstance(price.model, Matrix),
        )
    )


@lru_cache(maxsize=KNOWN_BOUNDS)
def bucket_bounds(bucket: Bucket, period: Period, timezone: str) -> tuple[datetime, ...]:
    """The instants, ascending, between which the buckets that touch the period lie. Raises Reject for more than
    MAX_BUCKETS."""
    if (period.end - period.start) / SHORTEST[bucket] > MAX_BUCKETS:
        raise Reject(TOO_MANY_BUCKETS, f"a period of more than {MAX_BUCKETS} {bucket}s: take larger buckets")
    if bucket in WINDOWS:
        return tuple(window_bounds(WINDOWS[bucket], zone(timezone), period.start, period.end))
    units = schedule(period.start, timezone, BillingPeriod(bucket), 1, Alignment.CALENDAR)
    bounds = [units.start(0)]
    while bounds[-1] < period.end:
        bounds.append(units.start(len(bounds)))
    return tuple(bounds)


def usage_of(price: Price, metered: MeteredUsage) -> Usage:
    """What was measured as what the price is applied to."""
    if isinstance(price.model, Matrix):
        return Usage(
            groups=[
                Group(
                    properties={name: value for name, value in each.group.items() if value is not None},
                    quantity=each.quantity,
                )
                for each in metered.groups
            ]
        )
    if price.bucket is not None:
        return Usage(buckets=metered.quantities)
    if needs_each(price):
        return Usage(transactions=metered.quantities)
    return Usage(quantity=metered.quantity)


def billed_quantity(price: Price, metered: MeteredUsage) -> Decimal:
    """What a line bills: the whole, or where cells have prices of their own what they bill together."""
    if not isinstance(price.model, Matrix):
        return metered.quantity
    return sum((each.quantity for each in metered.groups), ZERO)
