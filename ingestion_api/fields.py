"""Types of fields that many bodies share. A body names its fields exactly: an unknown one is refused."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pricing.periods import zone
from schemas.errors import Reject
from schemas.instants import parse_instant
from schemas.money import currency_exponent, format_decimal, parse_decimal

UNSUPPORTED_FIELD = "request.unsupported_field"
MAX_KEY_LENGTH = 100
MAX_NAME_LENGTH = 200
MAX_EXTERNAL_ID_LENGTH = 255
MAX_METADATA_KEYS = 50
MAX_METADATA_KEY_LENGTH = 40
MAX_METADATA_VALUE_LENGTH = 500
MIN_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
MAX_INSTANT = datetime(2200, 1, 1, tzinfo=UTC)  # periods are counted from instants; beyond it calendars mean nothing


class Body(BaseModel):
    """Base of every body: no unknown fields, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True)


def check_external_id(text: str) -> str:
    """A user's own name of a customer: visible at both ends, no control characters, no path of its own."""
    if text != text.strip() or not text.isprintable():
        raise ValueError("must not begin or end with a space, nor hold control characters")
    if "/" in text or text in (".", ".."):  # a path with them leads elsewhere, or nowhere
        raise ValueError("must hold no slash, nor be . or ..; `subjects`, the names in events, may")
    return text


def check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def read_instant(value: object) -> datetime:
    """An instant from its text, between MIN_INSTANT and MAX_INSTANT. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be an RFC 3339 instant such as 2026-01-31T12:00:00Z")
    try:
        instant = parse_instant(value)
    except OverflowError:
        raise ValueError(f"must lie between {MIN_INSTANT:%Y} and {MAX_INSTANT:%Y}") from None
    if not MIN_INSTANT <= instant < MAX_INSTANT:
        raise ValueError(f"must lie between {MIN_INSTANT:%Y} and {MAX_INSTANT:%Y}")
    return instant


def read_decimal(value: object) -> Decimal:
    """A decimal from its text, or from a JSON number, whose digits have been kept."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError('must be a decimal string such as "12.5"')
    return parse_decimal(str(value))


def _read_decimal_text(value: object) -> str:
    return format_decimal(read_decimal(value))


def check_timezone(name: str) -> str:
    """An IANA name that billing knows too. Raises ValueError for any other text."""
    try:
        zone(name)
    except Reject as error:
        raise ValueError("must be an IANA time zone such as Europe/Berlin") from error
    return name


def check_currency(code: str) -> str:
    """An ISO 4217 code of a currency that has minor units. Raises ValueError for any other text."""
    currency_exponent(code)
    return code


def refuse_unsupported(value: object) -> None:
    """A field of the contract that this release can't honour yet: only its empty values say nothing."""
    if value not in (None, [], {}, 0, False):
        raise PydanticCustomError(UNSUPPORTED_FIELD, "This release does not support this field yet.")


Unsupported = Annotated[
    None, BeforeValidator(refuse_unsupported), WithJsonSchema({"description": "Not supported yet.", "type": "null"})
]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$",
        description="Your own name of the object; it works wherever its id does.",
    ),
]
Reference = Annotated[
    str, Field(min_length=1, max_length=MAX_EXTERNAL_ID_LENGTH, description="An id, or your own key.")
]
ExternalId = Annotated[str, Field(min_length=1, max_length=MAX_EXTERNAL_ID_LENGTH), AfterValidator(check_external_id)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH), AfterValidator(check_text)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=MAX_METADATA_KEY_LENGTH)]
MetadataValue = Annotated[str, Field(max_length=MAX_METADATA_VALUE_LENGTH)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(default_factory=dict, max_length=MAX_METADATA_KEYS)]
MetadataChange = Annotated[
    dict[MetadataKey, MetadataValue | None],
    Field(
        default_factory=dict,
        max_length=MAX_METADATA_KEYS,
        description="Merged into what is there; null takes a key away.",
    ),
]
Instant = Annotated[datetime, BeforeValidator(read_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
DecimalText = Annotated[
    str, BeforeValidator(_read_decimal_text), WithJsonSchema({"type": "string", "examples": ["12.5"]})
]
Timezone = Annotated[str, Field(max_length=64), AfterValidator(check_timezone)]
Currency = Annotated[str, Field(min_length=3, max_length=3), AfterValidator(check_currency)]


def merge_metadata(present: dict[str, Any], change: dict[str, str | None]) -> dict[str, str]:
    """The metadata after a change. Raises Reject beyond MAX_METADATA_KEYS."""
    merged = {key: value for key, value in {**present, **change}.items() if value is not None}
    if len(merged) > MAX_METADATA_KEYS:
        raise Reject.at("/metadata", "request.invalid_field", f"at most {MAX_METADATA_KEYS} keys")
    return merged
