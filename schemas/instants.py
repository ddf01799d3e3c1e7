"""Instants and periods. An instant is an aware UTC `datetime`; on the log it is microseconds since 1970 (UTC)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MINUTE_MICROS = 60_000_000


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
    if len(text) < 20 or text[10] not in "Tt ":
        raise ValueError(f"{text!r} is not an RFC 3339 instant such as 2026-01-31T12:00:00Z")
    instant = datetime.fromisoformat(text.upper())
    if instant.tzinfo is None:
        raise ValueError(f"{text!r} names no offset; end it in Z or +hh:mm")
    return instant.astimezone(UTC)


def format_instant(instant: datetime) -> str:
    """An aware datetime to RFC 3339 in UTC, with as many digits of a second as it has (none, or six)."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def to_micros(instant: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z, exactly."""
    return (instant - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970-01-01T00:00:00Z."""
    return EPOCH + timedelta(microseconds=micros)
