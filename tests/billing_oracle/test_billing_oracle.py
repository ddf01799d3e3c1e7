"""Every invoice of any life of a subscription is what an oracle in plain decimals says, to the cent."""

import os

import pytest
from hypothesis import Phase, given, note, settings

from tests.billing_oracle.player import play
from tests.billing_oracle.scripts import Script, scripts
from tests.support.services import Services

FEW = 1  # the plainest lives there are; the long suite plays the others
MANY = int(os.environ.get("METERLINE_LONG_EXAMPLES", "200"))
FAILING_SECONDS = 900  # with shrinking, which plays the script again and again
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


def compare(services: Services, script: Script) -> None:
    note(str(script))
    with services.client(services.new_tenant_key()) as api:
        play(api, script)


@pytest.mark.timeout(FAILING_SECONDS)
@settings(max_examples=FEW, derandomize=True, database=None, phases=PHASES)
@given(script=scripts(lives=4, max_rounds=4))
def test_every_invoice_is_the_oracles(services: Services, script: Script) -> None:
    compare(services, script)


@pytest.mark.long
@pytest.mark.timeout(FAILING_SECONDS + 60 * MANY)
@settings(max_examples=MANY, derandomize=True, database=None, phases=PHASES)
@given(script=scripts(lives=8, max_rounds=9))
def test_every_invoice_is_the_oracles_for_longer_lives(services: Services, script: Script) -> None:
    compare(services, script)
