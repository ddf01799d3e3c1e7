"""What today's meters took from events, and why the others of the same type did not."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from infra.clickhouse.client import Client
from infra.clickhouse.event_windows import MinuteKey, ValueKey, WindowKey, stored_windows
from infra.clickhouse.events import Decision, StoredEvent
from infra.postgres.meters import load_meters_of_types
from infra.postgres.pool import PgConnection
from ingestion_api.control.meters import to_entry
from schemas.arithmetic import parse_value
from schemas.catalogue import MeterEntry
from schemas.errors import Reject
from schemas.filters import passes
from schemas.instants import to_micros
from schemas.matching import (
    UNREADABLE,
    Quantity,
    event_groups,
    event_quantity,
    event_text,
    group_text,
    matches,
    number_of,
    parse_data,
    value_at,
)
from schemas.meters import ADDITIVE, Aggregation
from schemas.paths import parse_path

MAX_SHOWN_VALUE = 80  # characters of a value in a sentence
_MICROS_A_MINUTE = 60_000_000

_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


@dataclass(frozen=True, slots=True)
class KnownMeter:
    """A meter as readers see it."""

    key: str
    entry: MeterEntry
    archived: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """What a meter takes from an event; whether it has is for `window` to say. `text` is what a unique count counts."""

    meter: KnownMeter
    quantity: Quantity
    text: str
    groups: tuple[str, ...]
    window: WindowKey


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why a meter of the event's type took nothing from it."""

    meter: KnownMeter
    reason: str


@dataclass(frozen=True, slots=True)
class Metered:
    """An event with what counts of it now."""

    event: StoredEvent
    taken: tuple[Taken, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def status(self) -> str:
        """What became of the event: one that matched no meter when it came counts once a meter has taken it."""
        return "counted" if self.event.last.status == "unmatched" and self.taken else self.event.last.status


def load_meters(connection: PgConnection, *, tenant_id: str, types: Iterable[str]) -> list[KnownMeter]:
    """The tenant's meters of these event types, archived ones too, oldest first."""
    rows = load_meters_of_types(connection, tenant_id=tenant_id, types=sorted(set(types)))
    return [KnownMeter(row["key"], to_entry(row), row["archived_at"] is not None) for row in rows]


def meter_events(client: Client, events: Sequence[StoredEvent], meters: Sequence[KnownMeter]) -> list[Metered]:
    """What these meters took from each event, by the stored windows."""
    candidates = [_judge(event, [each for each in meters if each.entry.event_type == event.type]) for event in events]
    stored = stored_windows(client, (taken.window for taken, _ in candidates for taken in taken))
    return [
        Metered(
            event,
            tuple(each for each in taken if each.window in stored),
            (*left_out, *(_uncounted(each.meter) for each in taken if each.window not in stored)),
        )
        for event, (taken, left_out) in zip(events, candidates, strict=True)
    ]


def _uncounted(meter: KnownMeter) -> LeftOut:
    reason = "it is archived" if meter.archived else "it is newer than the event and has not counted the past yet"
    return LeftOut(meter, reason)


def _judge(event: StoredEvent, meters: Sequence[KnownMeter]) -> tuple[list[Taken], list[LeftOut]]:
    counting = event.counting
    if counting is None or not meters:
        return [], []
    try:
        data = parse_data(event.data)
    except Reject as error:
        return [], [LeftOut(meter, error.detail) for meter in meters]
    taken: list[Taken] = []
    left_out: list[LeftOut] = []
    for meter in meters:
        found = _take(event, counting, meter, data)
        if isinstance(found, Taken):
            taken.append(found)
        else:
            left_out.append(found)
    return taken, left_out


def _take(event: StoredEvent, counting: Decision, meter: KnownMeter, data: dict[str, object]) -> Taken | LeftOut:
    entry = meter.entry
    if not matches(entry, data):
        return LeftOut(meter, _filter_reason(entry, data))
    try:
        quantity = event_quantity(entry, data)
        groups = () if quantity is None else event_groups(entry, data)
        text = event_text(entry, data)
    except Reject:  # a meter made after the event, which it would have quarantined
        return LeftOut(meter, unreadable_reason(entry, data) or "its value can't be read")
    if quantity is None:
        return LeftOut(meter, _absent_reason(entry, data))
    return Taken(meter, quantity, text, groups, _window(event, counting, entry, groups))


def _window(event: StoredEvent, counting: Decision, meter: MeterEntry, groups: tuple[str, ...]) -> WindowKey:
    micros = to_micros(event.occurred_at)
    if meter.aggregation in ADDITIVE:
        minute_seconds = micros // _MICROS_A_MINUTE * 60
        return MinuteKey(
            meter.meter_no, meter.revision, counting.customer_no, minute_seconds, groups, counting.shard, counting.seq
        )
    return ValueKey(
        meter.meter_no, meter.revision, counting.customer_no, micros, event.partition, event.offset, event.index
    )


def _filter_reason(meter: MeterEntry, data: dict[str, object]) -> str:
    for rule in meter.filters:
        found = value_at(data, parse_path(rule.property))
        if not passes(rule, found):
            wanted = ", ".join(rule.values)
            return f"its filter `{rule.property} {rule.op} {wanted}` does not let {shown(found)} through"
    raise AssertionError("asked of a meter whose filters let the event through")


def _absent_reason(meter: MeterEntry, data: dict[str, object]) -> str:
    assert meter.value is not None, "a count takes any event"
    absent = [_path_text(path) for path in parse_value(meter.value).paths if value_at(data, path) is None]
    return f"there is nothing at {', '.join(absent)}"


def unreadable_reason(meter: MeterEntry, data: dict[str, object]) -> str | None:
    """What of an event that matches the meter it can't read, and what stands there; None when it can read all."""
    if meter.value is not None and meter.aggregation is not Aggregation.COUNT:
        read = group_text if meter.aggregation is Aggregation.UNIQUE_COUNT else number_of
        for path in parse_value(meter.value).paths:
            found = value_at(data, path)
            if _refuses(read, found):
                return f"at {_path_text(path)} stands {shown(found)}, which is no number it can count"
    for name in meter.group_by:
        if _refuses(group_text, data.get(name)):
            return f"its group {name!r} can't be read"
    return None if not _refuses(lambda _: event_quantity(meter, data), None) else "its value is beyond 38 digits"


def _refuses(read: Callable[[object], object], value: object) -> bool:
    try:
        read(value)
    except Reject:
        return True
    return False


def _path_text(path: tuple[str, ...]) -> str:
    return "$" + "".join(f".{name}" if name.isidentifier() else f"['{name}']" for name in path)


def shown(value: object) -> str:
    """A JSON value in a sentence."""
    if value is None:
        return "nothing"
    if value is UNREADABLE:
        return "something that can't be read"
    text = _encoder.encode(value).decode()
    return text if len(text) <= MAX_SHOWN_VALUE else text[:MAX_SHOWN_VALUE] + "…"
