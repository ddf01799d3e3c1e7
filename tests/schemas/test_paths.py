import pytest

from schemas.paths import MAX_PATH_DEPTH, MAX_PATH_LENGTH, parse_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("$.tokens", ("tokens",)),
        ("$.usage.input_tokens", ("usage", "input_tokens")),
        ("$['user-id']", ("user-id",)),
        ('$["a.b"].c', ("a.b", "c")),
        ("$.größe", ("größe",)),
        ("$._x1", ("_x1",)),
    ],
)
def test_a_path_is_the_names_that_lead_to_its_place(text: str, names: tuple[str, ...]) -> None:
    assert parse_path(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$",
        "tokens",
        "$tokens",
        "$.",
        "$..a",
        "$.1a",
        "$.a-b",
        "$.a + $.b",
        "$.a ",
        " $.a",
        "$.a[0]",
        "$.*",
        "$['']",
        "$['a'b']",
        "$['a\\'b']",
        "$.a\n",
        "$" + ".a" * (MAX_PATH_DEPTH + 1),
        "$." + "a" * MAX_PATH_LENGTH,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"path|names"):
        parse_path(text)


def test_the_longest_and_the_deepest_path_are_read() -> None:
    assert len(parse_path("$." + "a" * (MAX_PATH_LENGTH - 2))) == 1
    assert len(parse_path("$" + ".a" * MAX_PATH_DEPTH)) == MAX_PATH_DEPTH
