"""What happened in lives: every kind of thing by name, so that a run can say which occurred, alone and together."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

from tests.billing_oracle.actions import Body, Cancel, Change, Give, OneOff, Pause, Resume, Start, VoidInvoice
from tests.billing_oracle.statements import Biller
from tests.billing_oracle.terms import Contract

HOW = ("prorated", "not prorated")
WHEN = ("now", "at period end", "on a date")
#: Everything that must occur in a long run.
KINDS = (
    *("plain start", "backdated start", "calendar", "own anchor", "end date"),
    *("trial to active", "trial canceled", "trial ends without method", "trial ends with method"),
    *("zone without DST", "zone with DST", "USD", "JPY", "KWD"),
    *(f"plan {way} {when} {how}" for way in ("up", "down") for when in WHEN for how in HOW),
    *(f"quantity {way}" for way in ("up", "down")),
    *("add-on", "more or fewer add-ons", "add-on taken away", "invoiced at once"),
    *("commitment of statements", "commitment of a period", "commitment changed"),
    *("percent", "amount", "coupon once", "coupon repeating", "coupon forever", "discounts changed"),
    *("tax added", "tax contained", "threshold"),
    *(f"{verb} {how}" for verb in ("pause", "resume") for how in HOW),
    *(f"cancel {when} {how}" for when in WHEN for how in HOW),
    *("event", "late event", "void event", "void invoice"),
    *("parent pays", "consolidated", "one-off"),
    *("grant", "grant that expires", "grant that recurs"),
    *("fee billed", "credit billed", "usage billed", "late billed", "commitment billed", "one_off billed"),
    *(
        "closing invoice",
        "adjustment invoice",
        "threshold invoice",
        "one_off invoice",
        "invoice below zero",
        "paid by wallet",
        "discount taken",
        "tax taken",
    ),
)


@dataclass
class Story:
    """How often each kind of thing happened in one life."""

    kinds: Counter[str] = field(default_factory=Counter[str])

    def tell(self, *kinds: str) -> None:
        assert set(kinds) <= set(KINDS), kinds
        self.kinds.update(kinds)


def tell_start(story: Story, start: Start) -> None:
    special = (start.back_days, start.by_calendar, start.anchor_days, start.end_days, start.trial_days)
    story.tell("zone with DST" if start.zone in ("America/New_York", "Europe/Berlin") else "zone without DST")
    story.tell(start.currency)
    names = ("backdated start", "calendar", "own anchor", "end date")
    story.tell(*(name for name, is_so in zip(names, special, strict=False) if is_so))
    if not any(special):
        story.tell("plain start")
    if start.trial_days:
        with_method = "with" if start.has_payment_method else "without"
        endings = {"cancel": "trial canceled", "cancel_without_payment_method": f"trial ends {with_method} method"}
        story.tell(endings.get(start.trial_end, "trial to active"))
    story.tell(*("tax contained" if is_inclusive else "tax added" for _, is_inclusive in start.taxes))
    _tell_discounts(story, start.discounts)
    if start.commitment:
        _tell_commitment(story, start.commitment)
    if start.threshold:
        story.tell("threshold")
    if start.has_parent:
        story.tell("parent pays")
    if start.is_consolidated:
        story.tell("consolidated")


def tell(
    story: Story, action: Change | Pause | Resume | Cancel | Give | VoidInvoice | OneOff, before: Contract | None = None
) -> None:
    """Something that was done. `before`: what was agreed until then."""
    match action:
        case Give():
            story.tell("grant", *(["grant that expires"] if action.days else []))
            story.tell(*(["grant that recurs"] if action.every else []))
        case VoidInvoice():
            story.tell("void invoice")
        case OneOff():
            story.tell("one-off")
        case Pause() | Resume():
            story.tell(f"{'pause' if isinstance(action, Pause) else 'resume'} {HOW[not action.prorate]}")
        case Cancel():
            story.tell(f"cancel {_when(action.when)} {HOW[not action.prorate]}")
        case Change():
            assert before is not None
            _tell_change(story, action, before)


def _tell_change(story: Story, change: Change, before: Contract) -> None:
    if change.plan is not None and change.plan != before.plan:
        way = "up" if change.plan > before.plan else "down"
        story.tell(f"plan {way} {_when(change.when)} {HOW[not change.prorate]}")
    if change.seats is not None and change.seats != before.seats:
        story.tell("quantity up" if float(change.seats) > float(before.seats) else "quantity down")
    if change.addons is not None and change.addons != before.addons:
        name = "more or fewer add-ons" if change.addons and before.addons else "add-on"
        story.tell(name if change.addons else "add-on taken away")
    if change.commitment is not None:
        story.tell("commitment changed")
        if change.commitment:
            _tell_commitment(story, change.commitment)
    if change.discounts is not None:
        story.tell("discounts changed")
        _tell_discounts(story, change.discounts)
    if change.invoice_now:
        story.tell("invoiced at once")


def _when(when: str | int) -> str:
    return {"now": "now", "period_end": "at period end"}.get(str(when), "on a date")


def _tell_commitment(story: Story, commitment: Body) -> None:
    story.tell("commitment of a period" if "billing_period" in commitment else "commitment of statements")


def _tell_discounts(story: Story, discounts: Iterable[Body]) -> None:
    for discount in discounts:
        story.tell("percent" if "percent" in discount else "amount")
        if "duration" in discount:
            story.tell(f"coupon {discount['duration']}")


def tell_end(story: Story, biller: Biller) -> None:
    """What invoices came of it."""
    for invoice in biller.invoices:
        found = invoice.totals
        story.tell(*(f"{line.kind} billed" for line in invoice.lines))
        story.tell(*([] if invoice.kind == "subscription" else [f"{invoice.kind} invoice"]))
        story.tell(*(["invoice below zero"] if found.total < 0 else []))
        story.tell(*(["paid by wallet"] if invoice.credits_applied else []))
        story.tell(*(["discount taken"] if found.discount else []))
        story.tell(*(["tax taken"] if found.tax else []))


def never(stories: Iterable[Story]) -> list[str]:
    """What did not occur in any of the lives."""
    seen = {kind for story in stories for kind in story.kinds}
    return [kind for kind in KINDS if kind not in seen]


def table(stories: list[Story]) -> str:
    """By kind, in how many lives it occurred and how often; and which two kinds never met in one life."""
    lines = [f"{'':32}{'lives':>6}{'times':>7}"]
    for kind in KINDS:
        lives = sum(kind in story.kinds for story in stories)
        lines.append(f"{kind:32}{lives:6}{sum(story.kinds[kind] for story in stories):7}")
    met = {pair for story in stories for pair in combinations([kind for kind in KINDS if kind in story.kinds], 2)}
    pairs = len(KINDS) * (len(KINDS) - 1) // 2
    return "\n".join([*lines, f"{len(met)} of {pairs} pairs of kinds met in one of {len(stories)} lives"])
