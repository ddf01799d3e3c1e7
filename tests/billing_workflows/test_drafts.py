"""Drafts of subscriptions' invoices: they stand as long as the tenant says, and are finalized when that is over."""

from datetime import timedelta

from billing_workflows.drafts import finalize_chunk
from billing_workflows.due import run_all
from infra.postgres.billing_settings import change_settings
from infra.postgres.due import Moment
from infra.postgres.due_drafts import earliest_drafts
from infra.postgres.invoice_lifecycle import finalize_drafts
from schemas.ids import Prefix, new_id
from schemas.workflows import DRAFTS
from tests.support.billing import ADVANCE, World, instant


def stand(world: World, hours: int) -> None:
    with world.doors.database.transaction() as connection:
        change_settings(connection, tenant_id=world.tenant_id, changes={"draft_hours": hours, "net_days": 10})


def finalize(world: World, now: str) -> int:
    return sum(result.done for result in run_all(world.doors, DRAFTS, Moment(now=instant(now))))


def alter(world: World, change: str) -> None:
    with world.doors.database.transaction() as connection:
        connection.execute(f"ALTER TABLE invoices {change}".encode())


def test_a_draft_is_finalized_when_its_time_has_come_and_not_before(world: World) -> None:
    stand(world, 24)
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    [draft] = world.invoices()
    assert (draft["status"], draft["number"], draft["draft_until"]) == ("draft", None, instant("2026-01-02"))
    assert finalize(world, "2026-01-01T23:59:59") == 0
    assert finalize(world, "2026-01-02") == 1
    [invoice] = world.invoices()
    assert (invoice["status"], invoice["number"]) == ("open", "INV-000001")
    assert invoice["due_at"] == instant("2026-01-02") + timedelta(days=10)
    assert [line["amount_minor"] for line in invoice["lines"]] == [4900]
    assert finalize(world, "2026-01-03") == 0


def test_drafts_of_many_periods_get_numbers_without_gaps_in_their_order(world: World) -> None:
    stand(world, 1)
    world.bill(world.subscribe(ADVANCE), now="2026-03-15")
    assert [invoice["number"] for invoice in world.invoices()] == [None, None, None]
    assert finalize(world, "2026-03-16") == 3
    assert [invoice["number"] for invoice in world.invoices()] == ["INV-000001", "INV-000002", "INV-000003"]


def test_one_draft_that_cannot_be_finalized_holds_up_no_other(world: World) -> None:
    stand(world, 1)
    world.bill(world.subscribe(ADVANCE), now="2026-02-15")
    broken, good = world.invoices()
    alter(world, f"ADD CONSTRAINT held CHECK (id <> '{broken['id']}' OR status = 'draft')")
    try:
        result = finalize_chunk(world.doors, [broken["id"], good["id"]], Moment(now=instant("2026-02-16")))
    finally:
        alter(world, "DROP CONSTRAINT held")
    assert (result.done, result.parked) == (1, 1)
    assert [(one["status"], one["number"]) for one in world.invoices()] == [("draft", None), ("open", "INV-000001")]
    assert finalize(world, "2026-02-16T12:00:00") == 0
    assert finalize(world, "2026-02-17") == 1


def test_a_draft_that_is_final_by_now_is_passed_by(world: World) -> None:
    stand(world, 1)
    world.bill(world.subscribe(ADVANCE), now="2026-01-01")
    [draft] = world.invoices()
    with world.doors.database.transaction() as connection:
        assert finalize_drafts(connection, [draft["id"]], now=instant("2026-01-01")) == [draft["id"]]
    assert finalize_chunk(world.doors, [draft["id"]], Moment(now=instant("2026-01-02"))).done == 0


def test_drafts_of_a_test_clocks_customers_are_due_by_their_clock_alone(world: World) -> None:
    stand(world, 24)
    subscription = world.subscribe(ADVANCE)
    world.bill(subscription, now="2026-01-01")
    clock_id = "tck_" + new_id(Prefix.TENANT)
    with world.doors.database.transaction() as connection:
        connection.execute(
            "INSERT INTO test_clocks (id, tenant_id, name, now, status, created_at)"
            " VALUES (%s, %s, 'clock', %s, 'ready', %s)",
            (clock_id, world.tenant_id, instant("2026-01-01"), instant("2026-01-01")),
        )
        connection.execute(
            "UPDATE customers SET test_clock_id = %s WHERE id = %s", (clock_id, subscription.customer_id)
        )
        assert earliest_drafts(connection, [clock_id]) == {clock_id: instant("2026-01-02")}
    assert finalize(world, "2026-06-01") == 0
    done = run_all(world.doors, DRAFTS, Moment(now=instant("2026-01-02"), clock_id=clock_id))
    assert [result.done for result in done] == [1]
    with world.doors.database.transaction() as connection:
        assert earliest_drafts(connection, [clock_id]) == {}
