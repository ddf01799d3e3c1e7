"""Instants and periods. An instant is an aware UTC `datetime`; on the log it is microseconds since 1970 (UTC)."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MINUTE_MICROS = 60_000_000

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,32})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Period:
    """The half-open interval [start, end)."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end


def parse_instant(text: str) -> datetime:
    """RFC 3339 text to an aware UTC datetime; digits beyond microseconds are cut off.

    Raises ValueError when the text is no instant or names no offset.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not an RFC 3339 instant such as 2026-01-31T12:00:00Z")
    if match[2] is None:
        raise ValueError(f"{text!r} names no offset; end it in Z or +hh:mm")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no instant: {error}") from error


def format_instant(instant: datetime) -> str:
    """An aware datetime to RFC 3339 in UTC, with as many digits of a second as it has (none, or six)."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_micros(instant: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z, exactly."""
    return (instant - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970-01-01T00:00:00Z."""
    return EPOCH + timedelta(microseconds=micros)
