from decimal import Decimal
from typing import Any

import pytest

from flows.fields import coded
from schemas.matching import group_text


@pytest.mark.parametrize(
    "column",
    [
        ["a", "b", None, "a"],
        [1, "1", True, "true", Decimal("1.0"), None, Decimal("1e0")],
        [[Decimal("1.5")], ["1.5"], [1], [True], {"a": None}, {}],
        [["é"], ["e"], "é", ""],
        [10**4000, Decimal("1e4000"), -(10**200)],
    ],
)
def test_codes_stand_for_values_of_the_same_kind_and_group(column: list[Any]) -> None:
    found = coded(column)
    stood_for = [found.distinct[code] for code in found.codes.tolist()]
    assert [(type(value), group_text(value)) for value in stood_for] == [
        (type(value), group_text(value)) for value in column
    ]
