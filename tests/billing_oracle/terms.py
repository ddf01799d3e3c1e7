"""What a subscription is agreed on, and which prices that makes."""

from dataclasses import dataclass, replace
from decimal import Decimal

from tests.billing_oracle.actions import Body, Change, Start
from tests.billing_oracle.life import Agreed, Prices
from tests.billing_oracle.money import Commitment

ONE = Decimal(1)


@dataclass(frozen=True)
class Contract:
    """Which plan, how many seats, how often the add-on; a pause has none of them in force."""

    plan: int
    seats: str
    addons: int = 0
    commitment: Commitment | None = None
    is_paused: bool = False

    def changed(self, change: Change) -> "Contract":
        """What a change does not name stays as it is."""
        return replace(
            self,
            plan=self.plan if change.plan is None else change.plan,
            seats=self.seats if change.seats is None else change.seats,
            addons=self.addons if change.addons is None else change.addons,
            commitment=self.commitment if change.commitment is None else read_commitment(change.commitment),
        )

    def prices(self, start: Start) -> Prices:
        if self.is_paused:
            return {}
        found: dict[str, Agreed] = {}
        for body in start.plans[self.plan]:
            quantity = Decimal(self.seats) if body["key"] == "seats" else ONE
            found[body["key"]] = Agreed(body, None if body["type"] == "usage" else quantity)
        for body in start.addon if self.addons else ():
            found[body["key"]] = Agreed(_of_several(body), Decimal(self.addons))
        return found


def read_commitment(body: Body | None) -> Commitment | None:
    if not body:
        return None
    return Commitment(
        Decimal(body["amount"]),
        Decimal(body.get("overage_factor", "1")),
        body.get("true_up", False),
        body.get("billing_period"),
    )


def _of_several(body: Body) -> Body:
    """Of an add-on that is there several times each one costs its flat amount."""
    return {**body, "model": "per_unit", "unit_amount": body["amount"]}
