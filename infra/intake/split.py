"""A body that can't be decoded in one go, as the texts of its events: so that a bad one spoils no other."""

import re
from collections.abc import Iterator

import msgspec

from schemas.errors import Malformed, TooLarge
from schemas.events import MAX_EVENTS_A_REQUEST

#: Up to so many commas the fast splitter's memory stays small, whatever the body holds (about 80 B an element).
MAX_COMMAS_OF_FAST_SPLIT = 1_000_000

_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]++|[\]}]++|[,"]', re.DOTALL)


def too_many_events() -> TooLarge:
    return TooLarge("request.too_large", f"A request holds at most {MAX_EVENTS_A_REQUEST} events; split it.")


def split_lines(body: bytes) -> list[bytes]:
    """The lines of newline-delimited JSON that are not blank."""
    lines: list[bytes] = []
    for match in re.finditer(rb"[^\n]+", body):
        line = match[0].strip()
        if line:
            lines.append(line)
        if len(lines) > MAX_EVENTS_A_REQUEST:
            raise too_many_events()
    return lines


def split_array(body: bytes) -> list[bytes]:
    """The texts of the elements of a JSON array. Brackets and strings must be in order; the elements themselves may
    be no JSON, or nested too deep for a parser. Raises Malformed when the array's own form is broken."""
    if body.count(b",") <= MAX_COMMAS_OF_FAST_SPLIT:
        try:
            elements = [bytes(raw) for raw in _raw_list.decode(body)]
        except (msgspec.MsgspecError, RecursionError):
            pass
        else:
            if len(elements) > MAX_EVENTS_A_REQUEST:
                raise too_many_events()
            return elements
    elements = []
    for element in _scan_array(body):
        if not element:
            raise Malformed("request.invalid_json", f"The array's element {len(elements)} is empty.")
        elements.append(element)
        if len(elements) > MAX_EVENTS_A_REQUEST:
            raise too_many_events()
    return elements


def _scan_array(body: bytes) -> Iterator[bytes]:
    """Cut at the commas that stand between the array's elements."""
    depth = 0
    start = len(body) - len(body.lstrip()) + 1
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token == b'"':
            raise Malformed("request.invalid_json", f"The string that begins at byte {match.start()} has no end.")
        if token == b"," and depth == 1:
            yield body[start : match.start()].strip()
            start = match.end()
        elif token[0] in b"[{":
            depth += len(token)
        elif token[0] in b"]}":
            depth -= len(token)
            if depth <= 0:
                if depth < 0 or body[match.end() :].strip() or not body[match.end() - 1 :].startswith(b"]"):
                    raise Malformed("request.invalid_json", f"Byte {match.end() - 1} closes more than was opened.")
                yield body[start : match.end() - 1].strip()
                return
    raise Malformed("request.invalid_json", "The array has no end.")
