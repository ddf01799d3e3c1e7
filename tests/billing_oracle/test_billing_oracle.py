"""Every invoice of any life of a subscription is what an oracle in plain decimals says, to the cent."""

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from infra.postgres.invariants.check import find_broken
from infra.postgres.pool import Database
from tests.billing_oracle.actions import Script
from tests.billing_oracle.regressions import REGRESSIONS
from tests.billing_oracle.scripts import make_script
from tests.billing_oracle.stage import Played, play
from tests.billing_oracle.story import Story, never, table
from tests.support.services import Services

FEW = 4  # lives of the short suite's script
FEW_ROUNDS = 5
MANY = int(os.environ.get("METERLINE_LONG_EXAMPLES", "200"))
SEED = int(os.environ.get("METERLINE_LONG_SEED", "1"))
SCRIPTS_A_SEED = 1_000
ENOUGH = 200  # lives in which everything is to occur
LIVES = 16  # of a script: by one clock
AT_ONCE = 4  # scripts
SECONDS_A_LIFE = 20  # a slow machine's


def perform(services: Services, scripts: Iterable[Script], *, at_once: int) -> list[Story]:
    """Play scripts side by side, and tell each as soon as it is over. Fails with all lives that differ, so that each
    can be kept among the regressions as it is printed; and when a rule of billing does not hold afterwards."""

    def perform_one(script: Script) -> tuple[Script, Played]:
        with services.client(services.new_tenant_key()) as api:
            return script, play(api, script)

    stories: list[Story] = []
    differ: list[str] = []
    lives: dict[str, Script] = {}
    with ThreadPoolExecutor(at_once) as stages:
        for script, played in stages.map(perform_one, scripts):
            stories += played.stories
            differ += [f"{script.alone(found.plot)!r}\n{found.what}" for found in played.disagreements]
            lives |= {subscription: script.alone(plot) for subscription, plot in played.plots.items()}
            sys.stdout.write(f"{len(stories)} lives, {len(differ)} differ\n")
    assert not differ, "\n\n".join(differ)
    database = Database(services.settings.postgres_dsn, max_connections=1)
    with closing(database), database.transaction() as connection:
        broken = find_broken(connection)
    assert {rule: [lives.get(id_, id_) for id_ in ids] for rule, ids in broken.items()} == {}
    return stories


@pytest.mark.timeout(300)
def test_every_invoice_is_the_oracles(services: Services) -> None:
    made = make_script(0, lives=FEW)
    scripts = [*REGRESSIONS, replace(made, advances=made.advances[:FEW_ROUNDS])]
    perform(services, scripts, at_once=len(scripts))


@pytest.mark.long
@pytest.mark.timeout(120 + SECONDS_A_LIFE * MANY)
def test_every_invoice_of_many_lives_is_the_oracles_and_everything_occurs_in_them(services: Services) -> None:
    first = 1 + (SEED - 1) * SCRIPTS_A_SEED
    scripts = (make_script(number, lives=LIVES) for number in range(first, first + -(-MANY // LIVES)))
    stories = perform(services, scripts, at_once=AT_ONCE)
    sys.stdout.write(f"{table(stories)}\n")
    assert len(stories) < ENOUGH or never(stories) == []
