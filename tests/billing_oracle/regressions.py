"""Lives in which the services and the oracle once differed. Each says which of the two was wrong, and in what."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.billing_oracle.actions import (
    Body,
    Cancel,
    Change,
    Give,
    OneOff,
    Pause,
    Plot,
    Resume,
    Script,
    Start,
    Use,
    Void,
    VoidInvoice,
)

DAY = 86_400
FEE: Body = {"key": "base", "type": "fixed", "billing_period": "week", "model": "flat", "amount": "10"}
CALLS: Body = {
    "key": "calls",
    "type": "usage",
    "meter": "calls",
    "billing_period": "month",
    "model": "per_unit",
    "unit_amount": "2",
}
SEATS: Body = {"key": "seats", "type": "fixed", "billing_period": "week", "model": "per_unit", "unit_amount": "3"}
ADDON: tuple[Body, ...] = ({**FEE, "key": "support", "amount": "7"},)


PLAIN = Start("USD", "Europe/Berlin", (), ADDON, "1")


def start(*prices: Body, **terms: Any) -> Start:
    return replace(PLAIN, plans=((SEATS, *prices),) * 3, **terms)


#: The oracle corrected usage on statements with usage alone. What is billed is corrected by the next one, whatever it
#: has (the design: a statement also rechecks what was billed before).
CORRECTED_BY_A_FEE = Plot(start(FEE, CALLS), ((Use(((0, "30"),)),), (), (), (Void(0),)))

#: Late usage after the part that a threshold had billed brought that part again: services billed it twice.
LATE_BEYOND_A_THRESHOLD = Plot(
    start(FEE, CALLS, threshold="50"), ((Use(((-1, "0.5"), (DAY, "40"))),), (), (), (Use(((-3 * DAY, "1"),)),))
)

#: A price of usage that lasts longer than a fee was looked at only before its own statement: services were late.
THRESHOLD_BESIDE_A_WEEK = Plot(start(FEE, CALLS, threshold="20"), ((), (Use(((0, "30"),)),), (Use(((0, "3"),)),)))

#: A week of usage that lies in two months counted for neither month's commitment: services asked for too much.
WEEKS_BELOW_A_COMMITMENT = Plot(
    start(
        FEE,
        {**CALLS, "billing_period": "week"},
        commitment={"amount": "200", "true_up": True, "billing_period": "month"},
    ),
    ((Use(((0, "30"),)),), (Use(((9 * DAY, "20"),)),), (Use(((5 * DAY, "10"), (13 * DAY, "8"))),)),
)

#: The oracle left out of a commitment what a threshold had billed of a period that went on: it is billed within it.
THRESHOLD_BELOW_A_COMMITMENT = Plot(
    start(
        FEE,
        {**CALLS, "billing_period": "quarter"},
        threshold="20",
        commitment={"amount": "200", "true_up": True, "billing_period": "month"},
    ),
    ((Use(((0, "30"),)),), (), (Change(plan=1, prorate=False),)),
)

#: A rule of the services' own called a void invoice broken, when a grant that had paid it was over.
VOID_AFTER_ITS_GRANT = Plot(
    start(FEE, grants=(Give(5, 1, days=2), Give(40, 50, every="month"))), ((), (VoidInvoice(0),), (Give(40, 1),))
)

#: The oracle let a change of discounts alone replace what is scheduled, and be invoiced at once: it changes no terms.
DISCOUNTS_BESIDE_A_SCHEDULE = Plot(
    start(FEE, CALLS),
    (
        (),
        (Change("period_end", seats="4", prorate=False),),
        (Use(((-DAY, "3"),)), Change(discounts=({"percent": "10"},), invoice_now=True)),
    ),
)

#: The oracle forgot what comes after the last statement: each look billed a difference, an invoice of its own.
LATE_AFTER_THE_END = Plot(
    start(FEE, CALLS, discounts=({"percent": "10"}, {"amount": "5"}), taxes=(("19", True),), grants=(Give(40, 1),)),
    (
        (Use(((0, "30"),)),),
        (Cancel("now", prorate=True),),
        (Use(((-16 * DAY, "20"),)),),
        (Use(((-30 * DAY, "7"), (-29 * DAY, "-2"))),),
        (Void(0),),
        (OneOff("99"),),
    ),
)

#: Usage that ended, in a pause, before a commitment's own period began counted for it: services made up too little.
USED_BEFORE_A_COMMITMENT = Plot(
    replace(PLAIN, plans=(({**SEATS, "billing_period": "quarter"}, {**CALLS, "billing_period": "quarter"}),) * 3),
    (
        (Use(((0, "30"),)),),
        (),
        (Pause(prorate=False),),
        (),
        (Resume(prorate=True),),
        (Change(commitment={"amount": "200", "true_up": True, "billing_period": "month"}), Use(((0, "3"),))),
        (),
    ),
)

#: What is given back of a month may round to nothing: a rule of the services' own called its days billed twice.
GIVEN_BACK_FOR_NOTHING = Plot(
    replace(
        PLAIN,
        currency="JPY",
        plans=tuple((SEATS, {**FEE, "billing_period": "month", "amount": amount}) for amount in ("1", "100", "200")),
    ),
    ((), (), (Change(plan=1, prorate=True),)),
)

REGRESSIONS = (
    Script(
        datetime(2032, 1, 31, 11, 30, tzinfo=UTC),
        ("days", "weeks", "month", "month", "days", "month"),
        (
            CORRECTED_BY_A_FEE,
            LATE_BEYOND_A_THRESHOLD,
            THRESHOLD_BESIDE_A_WEEK,
            WEEKS_BELOW_A_COMMITMENT,
            THRESHOLD_BELOW_A_COMMITMENT,
            VOID_AFTER_ITS_GRANT,
            DISCOUNTS_BESIDE_A_SCHEDULE,
            USED_BEFORE_A_COMMITMENT,
            GIVEN_BACK_FOR_NOTHING,
            LATE_AFTER_THE_END,
            replace(
                LATE_AFTER_THE_END,
                start=replace(LATE_AFTER_THE_END.start, has_parent=True, is_consolidated=True),
            ),
        ),
    ),
)
