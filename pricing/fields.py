"""Reads a JSON-like body field by field. Whatever is wrong becomes a `Reject` that names the field by its pointer."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeVar, cast

from schemas.errors import Reject
from schemas.instants import parse_instant
from schemas.money import MAX_DIGITS, currency_exponent, format_decimal, parse_decimal

INVALID_FIELD = "pricing.invalid_field"
INVALID_DECIMAL = "pricing.invalid_decimal"
INVALID_CURRENCY = "pricing.invalid_currency"
INVALID_INSTANT = "pricing.invalid_instant"
UNKNOWN_FIELD = "request.unknown_field"

MAX_NAME = 200  # characters of a key, a property or an id
MAX_COUNT = 1_000_000_000
MAX_INSTANT_TEXT = 64
MAX_SHOWN = 64  # characters of a wrong value that an error repeats

Choice = TypeVar("Choice", bound=StrEnum)


class Fields:
    """The fields of one JSON object. Each is taken once; `done` refuses those that nobody took.

    `code` is the code of every error below this object; without it the kind of the error decides.
    """

    def __init__(self, body: object, pointer: str = "", *, code: str | None = None) -> None:
        self.pointer = pointer
        self.code = code
        if not isinstance(body, Mapping):
            raise Reject.at(pointer, code or INVALID_FIELD, f"must be an object, not {kind(body)}")
        self._body = cast("Mapping[str, object]", body)
        self._taken: set[str] = set()

    def at(self, name: str) -> str:
        """The pointer of a field."""
        return f"{self.pointer}/{escape(name)}"

    def wrong(self, name: str, code: str, detail: str) -> Reject:
        return Reject.at(self.at(name), self.code or code, detail)

    def has(self, name: str) -> bool:
        return name in self._body

    def take(self, name: str) -> object:
        """The field's raw value. It must be there."""
        if name not in self._body:
            raise self.wrong(name, INVALID_FIELD, f"{name} is required")
        self._taken.add(name)
        return self._body[name]

    def decimal(
        self,
        name: str,
        default: Decimal | None = None,
        *,
        at_least: Decimal | None = None,
        above: Decimal | None = None,
        at_most: Decimal | None = None,
    ) -> Decimal:
        """A decimal within bounds; `default` when the field is absent, and an error without one."""
        if default is not None and name not in self._body:
            return default
        number = read_decimal(self.take(name), self.at(name), self.code)
        if at_least is not None and number < at_least:
            raise self.wrong(name, INVALID_DECIMAL, f"must be {format_decimal(at_least)} or more")
        if above is not None and number <= above:
            raise self.wrong(name, INVALID_DECIMAL, f"must be more than {format_decimal(above)}")
        if at_most is not None and number > at_most:
            raise self.wrong(name, INVALID_DECIMAL, f"must be {format_decimal(at_most)} or less")
        return number

    def optional_decimal(self, name: str, *, at_least: Decimal | None = None) -> Decimal | None:
        return self.decimal(name, at_least=at_least) if self.has(name) else None

    def integer(self, name: str, default: int | None = None, *, at_least: int = 0, at_most: int = MAX_COUNT) -> int:
        """A whole number, as a number or as text."""
        if default is not None and name not in self._body:
            return default
        number = read_decimal(self.take(name), self.at(name), self.code)
        if number != int(number) or not at_least <= number <= at_most:
            raise self.wrong(name, INVALID_DECIMAL, f"must be a whole number from {at_least} to {at_most}")
        return int(number)

    def flag(self, name: str, default: bool | None = None) -> bool:
        if default is not None and name not in self._body:
            return default
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(name, INVALID_FIELD, f"must be true or false, not {kind(value)}")
        return value

    def text(self, name: str, *, at_most: int = MAX_NAME) -> str:
        return read_text(self.take(name), self.at(name), self.code, at_most=at_most)

    def choice(
        self, name: str, choices: type[Choice], default: Choice | None = None, *, code: str = INVALID_FIELD
    ) -> Choice:
        if default is not None and name not in self._body:
            return default
        value = self.take(name)
        for member in choices:
            if member.value == value:
                return member
        words = ", ".join(member.value for member in choices)
        raise self.wrong(name, code, f"must be one of {words}; it is {shown(value)}")

    def optional_choice(self, name: str, choices: type[Choice]) -> Choice | None:
        return self.choice(name, choices) if self.has(name) else None

    def currency(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise self.wrong(name, INVALID_CURRENCY, f"must be an ISO 4217 code, not {kind(value)}")
        try:
            currency_exponent(value)
        except ValueError as error:
            raise self.wrong(name, INVALID_CURRENCY, f"{error}; it is {shown(value)}") from None
        return value

    def instant(self, name: str) -> datetime:
        """RFC 3339, within what a datetime in UTC can hold."""
        value = self.take(name)
        if not isinstance(value, str) or len(value) > MAX_INSTANT_TEXT:
            raise self.wrong(name, INVALID_INSTANT, "must be RFC 3339 text such as 2026-01-31T12:00:00Z")
        try:
            return parse_instant(value)
        except (ValueError, OverflowError):
            detail = "is no RFC 3339 instant such as 2026-01-31T12:00:00Z"
            raise Reject.at(self.at(name), INVALID_INSTANT, detail) from None

    def items(self, name: str, *, at_most: int) -> Sequence[object]:
        """A list of at most so many items, unread."""
        value = self.take(name)
        if not isinstance(value, list | tuple):
            raise self.wrong(name, INVALID_FIELD, f"must be a list, not {kind(value)}")
        items = cast("Sequence[object]", value)
        if len(items) > at_most:
            raise self.wrong(name, INVALID_FIELD, f"has {len(items)} items; {at_most} is the limit")
        return items

    def children(self, name: str, *, at_most: int) -> Iterator["Fields"]:
        """The objects of a list, one after another; none when the field is absent."""
        if not self.has(name):
            return
        for index, item in enumerate(self.items(name, at_most=at_most)):
            yield Fields(item, f"{self.at(name)}/{index}", code=self.code)

    def decimals(self, name: str, *, at_most: int) -> tuple[Decimal, ...]:
        pointer = self.at(name)
        items = self.items(name, at_most=at_most)
        return tuple(read_decimal(item, f"{pointer}/{index}", self.code) for index, item in enumerate(items))

    def child(self, name: str, *, code: str | None = None) -> "Fields":
        return Fields(self.take(name), self.at(name), code=code or self.code)

    def names(self, *, at_most: int) -> tuple[str, ...]:
        """All names, of an object whose names are data (grant ids, properties); they count as taken."""
        if len(self._body) > at_most:
            raise Reject.at(self.pointer, self.code or INVALID_FIELD, f"{at_most} entries are the limit")
        return tuple(read_text(name, self.pointer, self.code) for name in self._body)

    def rest(self) -> dict[str, object]:
        """The fields that nobody took yet."""
        return {name: value for name, value in self._body.items() if name not in self._taken}

    def done(self) -> None:
        """Refuse fields that no rule knows: a misspelt field must not be priced as if it were absent."""
        for name in self._body:
            if name not in self._taken:
                raise Reject.at(self.at(str(name)), UNKNOWN_FIELD, f"unknown field {shown(name)}")


def read_decimal(value: object, pointer: str, code: str | None = None) -> Decimal:
    """Decimal text, or a whole number. A float is refused: what its sender meant can't be known exactly."""
    match value:
        case bool():
            detail = "must be decimal text, not a boolean"
        case str():
            try:
                return parse_decimal(value)
            except ValueError as error:
                detail = f"{error}; it is {shown(value)}"
        case int() if abs(value) < 10**MAX_DIGITS:
            return Decimal(value)
        case int():
            detail = f"more than {MAX_DIGITS} significant digits"
        case _:
            detail = f"must be decimal text, not {kind(value)}"
    raise Reject.at(pointer, code or INVALID_DECIMAL, detail)


def read_text(value: object, pointer: str, code: str | None = None, *, at_most: int = MAX_NAME) -> str:
    """Non-empty text of so many characters at most that UTF-8 can hold."""
    if not isinstance(value, str):
        raise Reject.at(pointer, code or INVALID_FIELD, f"must be text, not {kind(value)}")
    if not 0 < len(value) <= at_most:
        raise Reject.at(pointer, code or INVALID_FIELD, f"must have 1 to {at_most} characters")
    if not is_unicode(value):
        raise Reject.at(pointer, code or INVALID_FIELD, "is no Unicode text (it has a lone surrogate)")
    return value


def is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def kind(value: object) -> str:
    """What a value is, in JSON's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "text"
        case int() | Decimal():
            return "a number"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return "a number with a point (send it as text)"


def shown(value: object) -> str:
    """A wrong value as an error repeats it: short, printable, and only if it is text."""
    return ascii(value[:MAX_SHOWN]) if isinstance(value, str) else kind(value)


def escape(name: str) -> str:
    """A field's name inside a JSON pointer (RFC 6901)."""
    shortened = name[:MAX_NAME].encode("utf-8", "replace").decode()
    return shortened.replace("~", "~0").replace("/", "~1")
