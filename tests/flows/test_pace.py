"""How long things gather before they go together."""

import pytest

from flows.pace import MOST_TIMES, gathering_seconds


@pytest.mark.parametrize(("size", "seconds"), [(0, 0.05), (50, 0.125), (100, 0.2), (10_000, 0.2)])
def test_an_interval_grows_with_what_came_and_has_an_end(size: int, seconds: float) -> None:
    assert gathering_seconds(0.05, size=size, full=100) == pytest.approx(seconds)
    assert gathering_seconds(0.05, size=size, full=100) <= 0.05 * MOST_TIMES
