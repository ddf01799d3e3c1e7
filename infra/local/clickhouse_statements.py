"""As much of ClickHouse's grammar as the front must know: where an INSERT ends and its data begins."""

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 256 * 1024  # an INSERT statement with its list of columns ends within this

#: One step: white space, a comment, a quoted thing, a word, or any other single byte.
_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\n]*(?:\n|\Z)|\#[!\s][^\n]*(?:\n|\Z)|/\*.*?\*/)"
    rb"|(?P<quoted>'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`)"
    rb"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    rb"|(?P<other>.)",
    re.DOTALL,
)
_OUTPUT_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*(?:SETTINGS\b[^;]*)?;?\s*\Z", re.IGNORECASE)
#: Words that leave something behind in a session: its connection must not serve another request.
_SESSION_WORDS = frozenset({b"SET", b"USE"})
_READING_WORDS = frozenset({b"SELECT", b"WITH"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """An INSERT whose data follows. `statement` stands before FORMAT; the data begins at byte `data_at`."""

    statement: str
    format: str
    data_at: int


def first_words(text: bytes) -> list[bytes]:
    """The first two words of a statement, in capitals; comments and white space don't count."""
    words: list[bytes] = []
    for token in _TOKEN.finditer(text[:MAX_HEAD_BYTES]):
        if token.lastgroup == "space":
            continue
        if token.lastgroup != "word":
            break
        words.append(token.group().upper())
        if len(words) == 2:
            break
    return [*words, b"", b""][:2]


def leaves_traces(text: bytes) -> bool:
    """Whether running this changes the session it runs in."""
    first, second = first_words(text)
    return first in _SESSION_WORDS or second == b"TEMPORARY"


def only_reads(text: bytes) -> bool:
    """Whether this is a SELECT, which may be answered in pieces."""
    return first_words(text)[0] in _READING_WORDS


def parse_insert(text: bytes) -> Insert | None:
    """The INSERT … FORMAT name at the head of `text`; None for any other statement (VALUES and SELECT among them)."""
    if first_words(text)[0] != b"INSERT":
        return None
    depth = 0
    format_at = -1
    for token in _TOKEN.finditer(text[:MAX_HEAD_BYTES]):
        if token.lastgroup == "other":
            depth += (token.group() == b"(") - (token.group() == b")")
        if token.lastgroup != "word" or depth:
            continue
        if format_at >= 0:
            return Insert(
                statement=text[:format_at].decode(),
                format=token.group().decode(),
                data_at=_skip_to_data(text, token.end()),
            )
        word = token.group().upper()
        if word in {b"VALUES", b"SELECT", b"WITH"}:
            return None
        if word == b"FORMAT":
            format_at = token.start()
    return None


def output_format(text: str) -> str | None:
    """The name after the last FORMAT of a query; None when it names none."""
    found = _OUTPUT_FORMAT.search(text)
    return found.group(1) if found else None


def _skip_to_data(text: bytes, position: int) -> int:
    """Data begins after the first line end, or after the blanks when there is none: ClickHouse's own rule."""
    while text[position : position + 1] in {b" ", b"\t", b"\f"}:
        position += 1
    if text[position : position + 1] == b"\r":
        position += 1
    if text[position : position + 1] == b"\n":
        position += 1
    return position
