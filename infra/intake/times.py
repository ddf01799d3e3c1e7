"""Many RFC 3339 instants to microseconds at once. Reads the common form only: UTC, `T` and `Z`, at most six digits
of a second. `None` from here says nothing but that each text must be read by itself."""

from datetime import date

import numpy as np

from infra.intake.texts import Int64s

EPOCH_DAY = date(1970, 1, 1).toordinal()
SECOND_MICROS = 1_000_000
#: 2026-01-31T12:00:00Z, and with a point and one to six digits before the Z.
LENGTHS = frozenset({20, *range(22, 28)})
#: Dates of up to so far apart, as numbers YYYYMMDD, are looked up in a table: those of a year, which hardly differ,
#: without sorting them.
MAX_DATE_SPAN = 10_000
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
_MARKS = [4, 7, 10, 13, 16]
_MARK_LETTERS = np.frombuffer(b"--T::", np.uint8).reshape(-1, 1)


def read_instants(texts: list[str]) -> Int64s | None:
    """Microseconds since 1970 of each text, or None when one is not in the common form, or is no instant."""
    micros = _read_equal(texts, len(texts[0]))
    if micros is not None:
        return micros
    length_of = np.fromiter(map(len, texts), np.int64, len(texts))
    lengths = np.unique(length_of)
    if len(lengths) == 1:
        return None
    micros = np.empty(len(texts), np.int64)
    for length in lengths.tolist():
        places = np.flatnonzero(length_of == length)
        read = _read_equal([texts[place] for place in places.tolist()], length)
        if read is None:
            return None
        micros[places] = read
    return micros


def _read_equal(texts: list[str], length: int) -> Int64s | None:
    """The same of texts that all have this length; None when one has another."""
    if length not in LENGTHS:
        return None
    joined = ("\0".join(texts) + "\0").encode()
    if len(joined) != (length + 1) * len(texts):
        return None
    # A row for each place of a text: what numpy does with a whole row costs a tenth of the same on a column. With
    # NULs in the last row, and nowhere else by the checks of the others, no text ran into the next.
    letters = np.ascontiguousarray(np.frombuffer(joined, np.uint8).reshape(-1, length + 1).T)
    digits = letters[_DIGITS] - np.uint8(ord("0"))  # below zero wraps round to far above nine
    if digits.max() > 9 or (letters[_MARKS] != _MARK_LETTERS).any():
        return None
    if (letters[-2] != ord("Z")).any() or letters[-1].any():
        return None
    century, year, month, day, hour, minute, second = digits[0::2] * np.uint8(10) + digits[1::2]
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    days = _days(((century.astype(np.int64) * 100 + year) * 100 + month) * 100 + day)
    if days is None:
        return None
    micros = ((days * 24 + hour) * 60 + minute) * 60 + second
    micros *= SECOND_MICROS
    if length == 20:
        return micros
    if (letters[19] != ord(".")).any():
        return None
    parts = letters[20:-2] - np.uint8(ord("0"))
    if parts.max() > 9:
        return None
    return micros + 10 ** np.arange(5, 25 - length + 1, -1, dtype=np.int64) @ parts


def _days(dates: Int64s) -> Int64s | None:
    """Days since 1970 of dates written as the numbers YYYYMMDD; None when one is in no calendar."""
    first = int(dates.min())
    places = dates - first
    span = int(places.max()) + 1
    if span > MAX_DATE_SPAN:
        distinct, codes = np.unique(dates, return_inverse=True)
        days = _days_of(distinct)
        return None if days is None else days[codes]
    seen = np.zeros(span, np.bool_)
    seen[places] = True
    found = np.flatnonzero(seen)
    days = _days_of(found + first)
    if days is None:
        return None
    day_of = np.empty(span, np.int64)
    day_of[found] = days
    return day_of[places]


def _days_of(distinct: Int64s) -> Int64s | None:
    """The same of few dates, one by one."""
    try:
        days = [date(n // 10_000, n // 100 % 100, n % 100).toordinal() - EPOCH_DAY for n in distinct.tolist()]
    except ValueError:
        return None
    return np.array(days, np.int64)
