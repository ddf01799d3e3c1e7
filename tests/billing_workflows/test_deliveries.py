"""A chunk of deliveries ends in time, and says where its endpoint is served from then on."""

import socket
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from billing_workflows.deliveries import AT_ONCE, CHUNK_BUDGET, CHUNK_SIZE, DeliveryDoors, deliver_chunk
from infra.webhooks import send
from schemas.workflows import Delivered, DeliveryRequest
from tests.support.billing import World
from tests.support.receiver import running_receiver
from tests.support.webhooks import make_due


def deliver(world: World, endpoint_id: str, *, is_failing: bool = False, step: timedelta = timedelta(0)) -> Delivered:
    """Of a chunk by a clock that goes on by `step` whenever it is read."""
    began, readings = datetime.now(UTC), count()
    doors = DeliveryDoors(
        database=world.doors.database, clock=lambda: began + next(readings) * step, allow_private=True
    )
    return deliver_chunk(doors, DeliveryRequest(endpoint_id=endpoint_id, is_failing=is_failing), stopping=lambda: False)


def test_an_endpoint_that_answers_nothing_for_its_whole_time_goes_among_those_that_fail(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint_id = make_due(world, f"http://127.0.0.1:{silent.getsockname()[1]}/", CHUNK_SIZE)
        dead = deliver(world, endpoint_id, step=CHUNK_BUDGET)
        assert (dead.succeeded, dead.more) == (0, False)
        assert 0 < dead.failed <= AT_ONCE, "its time is over after the first ones"
        again = deliver(world, endpoint_id, is_failing=True, step=CHUNK_BUDGET / (2 * AT_ONCE))
    assert (again.failed > 0, again.more) == (True, True), "there it goes on"


def test_an_endpoint_that_fails_at_once_holds_up_nobody_and_stays(world: World) -> None:
    with running_receiver() as receiver:
        receiver.flaky.add("/hooks")
        endpoint_id = make_due(world, f"{receiver.url}/hooks", CHUNK_SIZE + 1)
        assert deliver(world, endpoint_id) == Delivered(failed=CHUNK_SIZE, more=True)


def test_an_endpoint_that_has_recovered_goes_back_among_the_others(world: World) -> None:
    with running_receiver() as receiver:
        endpoint_id = make_due(world, f"{receiver.url}/hooks", CHUNK_SIZE + 1)
        assert deliver(world, endpoint_id, is_failing=True) == Delivered(succeeded=CHUNK_SIZE, more=False)
        assert deliver(world, endpoint_id) == Delivered(succeeded=1)
