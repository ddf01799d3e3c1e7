"""The oracle's words as HTTP: what it sends, asks, and reads in the answers."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import httpx2

from tests.oracle.answers import Answer, Query, Row
from tests.oracle.ledger import Event, Identity
from tests.oracle.rules import Filter, Meter

WAIT_SECONDS = 60
PAUSE_SECONDS = 0.05
PAGE = 1000
JSON = {"content-type": "application/json"}


def rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def event_text(event: Event) -> str:
    """The event as JSON. Its data goes as it is: no number passes through anything that could change it."""
    head = {"id": event.id, "type": event.type, "subject": event.subject, "time": rfc3339(event.time)}
    if event.source != "api":
        head["source"] = event.source
    return json.dumps(head)[:-1] + f', "data": {event.data}}}'


def batch_text(events: Sequence[Event]) -> str:
    return f"[{','.join(map(event_text, events))}]"


def _literal(value: str | bool | Decimal) -> str:
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _filter_text(rule: Filter) -> str:
    values = ",".join(map(_literal, rule.values))
    return f'{{"property": {json.dumps(str(rule.path))}, "op": "{rule.op}", "values": [{values}]}}'


def filters_text(meter: Meter) -> str:
    return f"[{','.join(map(_filter_text, meter.filters))}]"


def meter_text(meter: Meter) -> str:
    """The body of `POST /v1/meters`."""
    return json.dumps({"key": meter.key, **rule_of(meter)})[:-1] + f', "filters": {filters_text(meter)}}}'


def change_text(meter: Meter) -> str:
    """The body of `PATCH /v1/meters/{key}` that makes the meter this one."""
    return json.dumps({"value": None, **rule_of(meter)})[:-1] + f', "filters": {filters_text(meter)}}}'


def rule_of(meter: Meter) -> dict[str, Any]:
    """What a meter says, but for its key and its filters."""
    value = {} if meter.value is None else {"value": str(meter.value)}
    return {
        "event_type": meter.event_type,
        "aggregation": meter.aggregation,
        **value,
        "group_by": list(meter.group_by),
    }


def post(api: httpx2.Client, path: str, body: Any, *, status: int = 201) -> Any:
    """The decoded answer of a POST, of JSON text or something to make it of, that must have this status."""
    text = body if isinstance(body, str) else json.dumps(body)
    answer = api.post(path, content=text, headers=JSON)
    assert answer.status_code == status, f"{answer.status_code} for {path} {text[:500]}: {answer.text[:2000]}"
    return answer.json()


def get(api: httpx2.Client, path: str, params: Any = None) -> Any:
    answer = api.get(path, params=params)
    assert answer.status_code == 200, f"{answer.status_code} for {path} {params}: {answer.text[:2000]}"
    return answer.json()


def _params(query: Query, more: dict[str, str]) -> list[tuple[str, str]]:
    names = [*(["customer"] if query.by_customer else []), *query.group_by]
    params = [
        ("meter", query.meter),
        ("from", rfc3339(query.start)),
        ("to", rfc3339(query.end)),
        ("window", query.window),
        ("timezone", query.zone),
        ("limit", str(PAGE)),
        *more.items(),
    ]
    params += [("customer", query.customer)] if query.customer is not None else []
    params += [("group_by", ",".join(names))] if names else []
    return params + [(f"filter[{name}]", value) for name, values in query.filters.items() for value in values]


def ask(api: httpx2.Client, query: Query) -> Answer:
    """What the API answers, all pages of it."""
    found: Answer = {}
    more: dict[str, str] = {}
    while True:
        page = get(api, "/v1/usage", _params(query, more))
        for row in page["data"]:
            window = (_instant(row["window_start"]), _instant(row["window_end"]))
            key = Row(window, row["customer"], tuple(row["group"][name] for name in query.group_by))
            assert key not in found, f"{key} stands in the answer twice"
            found[key] = Decimal(row["value"])
        if not page["has_more"]:
            return found
        more = {"starting_after": page["next_cursor"]}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def list_events(api: httpx2.Client, **params: str) -> dict[Identity, dict[str, Any]]:
    """All of the tenant's events as the API shows them."""
    found: dict[Identity, dict[str, Any]] = {}
    more: dict[str, str] = {}
    while True:
        page = get(api, "/v1/events", {"limit": str(PAGE), **params, **more})
        for event in page["data"]:
            identity = (event["source"], event["id"])
            assert identity not in found, f"{identity} is listed twice"
            found[identity] = event
        if not page["has_more"]:
            return found
        more = {"starting_after": page["next_cursor"]}


def as_of(api: httpx2.Client, meter: str) -> datetime | None:
    """The instant before which everything acknowledged is in the usage of a meter."""
    now = rfc3339(datetime.now(UTC))
    text = get(api, "/v1/usage", {"meter": meter, "from": "2026-01-01T00:00:00Z", "to": now, "limit": "1"})["as_of"]
    return None if text is None else _instant(text)


def wait_for(condition: Callable[[], object], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(PAUSE_SECONDS)


def wait_counted(api: httpx2.Client, meters: Iterable[str]) -> None:
    """Wait until `as_of` has passed this moment, and so everything that has been acknowledged."""
    moment = datetime.now(UTC)

    def has_passed(meter: str) -> bool:
        found = as_of(api, meter)
        return found is not None and found > moment

    for meter in meters:
        wait_for(partial(has_passed, meter), f"as_of of {meter} passes {moment}")


def wait_built(api: httpx2.Client, meter: str) -> None:
    """Wait until answers come from the meter as it was last defined."""
    wait_for(lambda: get(api, f"/v1/meters/{meter}")["status"] == "ready", f"{meter} is built")
