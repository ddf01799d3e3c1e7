"""The matrix: a unit amount for each group of usage, found by the group's properties."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from pricing.fields import Fields, is_unicode, kind, read_decimal
from schemas.errors import Reject
from schemas.money import format_decimal

INVALID_MATRIX = "pricing.invalid_matrix"
MAX_CELLS = 1_000
MAX_DIMENSIONS = 8
MAX_PROPERTIES = 64
MAX_VALUE = 200  # characters of a property's value


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A group that has every one of these properties with these values costs this much a unit."""

    match: Mapping[str, str]
    unit_amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The sum over groups of quantity x the unit amount of the group's cell."""

    dimensions: tuple[str, ...]
    cells: tuple[Cell, ...]
    default_unit_amount: Decimal | None = None
    #: For each set of names that cells match by, the first cell of each set of values.
    index: Mapping[tuple[str, ...], Mapping[tuple[str, ...], int]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        index: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}
        for number, cell in enumerate(self.cells):
            names = tuple(sorted(cell.match))
            index.setdefault(names, {}).setdefault(tuple(cell.match[name] for name in names), number)
        object.__setattr__(self, "index", index)

    def find(self, properties: Mapping[str, str]) -> int | None:
        """The number of the first cell whose every pair is equal, None when there is none."""
        found = [
            number
            for names, cells in self.index.items()
            if all(name in properties for name in names)
            and (number := cells.get(tuple(properties[name] for name in names))) is not None
        ]
        return min(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Usage of one group. A property that the events did not have is absent."""

    properties: Mapping[str, str]
    quantity: Decimal


def read_matrix(fields: Fields) -> Matrix:
    for name in ("included_quantity", "unit_conversion"):
        if fields.has(name):
            raise fields.wrong(name, INVALID_MATRIX, f"{name} can't stand beside a matrix")
    pointer = fields.at("dimensions")
    names = fields.items("dimensions", at_most=MAX_DIMENSIONS)
    dimensions = tuple(group_value(name, f"{pointer}/{index}") for index, name in enumerate(names))
    if len(set(dimensions)) != len(dimensions):
        raise fields.wrong("dimensions", INVALID_MATRIX, "names a dimension twice")
    return Matrix(
        dimensions=dimensions,
        cells=tuple(read_cell(cell, dimensions) for cell in fields.children("cells", at_most=MAX_CELLS)),
        default_unit_amount=fields.optional_decimal("default_unit_amount"),
    )


def read_cell(cell: Fields, dimensions: tuple[str, ...]) -> Cell:
    match = cell.child("match")
    pairs: dict[str, str] = {}
    for name in match.names(at_most=MAX_DIMENSIONS):
        if name not in dimensions:
            raise match.wrong(name, INVALID_MATRIX, "is none of the dimensions")
        pairs[name] = group_value(match.take(name), match.at(name))
    unit_amount = cell.decimal("unit_amount")
    cell.done()
    return Cell(match=pairs, unit_amount=unit_amount)


def group_value(value: object, pointer: str) -> str:
    """A property's value as text, which is how values are compared; whole numbers and booleans become text."""
    match value:
        case str() if len(value) <= MAX_VALUE and is_unicode(value):
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return format_decimal(read_decimal(value, pointer, INVALID_MATRIX))
        case _:
            raise Reject.at(
                pointer, INVALID_MATRIX, f"must be text of at most {MAX_VALUE} characters, not {kind(value)}"
            )


def read_groups(fields: Fields, name: str, *, at_most: int) -> tuple[Group, ...]:
    """A list of `{group: {property: value}, quantity}`. A null property is a missing one."""
    return tuple(read_group(item) for item in fields.children(name, at_most=at_most))


def read_group(item: Fields) -> Group:
    body = item.child("group")
    properties: dict[str, str] = {}
    for name in body.names(at_most=MAX_PROPERTIES):
        value = body.take(name)
        if value is not None:
            properties[name] = group_value(value, body.at(name))
    quantity = item.decimal("quantity")
    item.done()
    return Group(properties=properties, quantity=quantity)
