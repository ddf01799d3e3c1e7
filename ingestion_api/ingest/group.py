"""Requests of one tenant whose events share messages, and so one fate."""

import asyncio
from dataclasses import dataclass

import numpy as np

from infra.intake.columns import Columns, Suspect, build_columns, check_columns, concatenate, identify
from infra.intake.decode import Form, decode
from infra.intake.element import Rejection
from infra.intake.event import IncomingEvent, check_event
from ingestion_api.ingest.trace import Trace
from schemas.errors import Reject
from schemas.events import MAX_TRACE_HEADERS


class AllRejected(Reject):
    """No event of the request is good."""

    def __init__(self, rejections: list[Rejection]) -> None:
        detail = f"None of the {len(rejections)} events is good; `rejected` says why." if rejections else "No events."
        super().__init__("event.all_rejected", detail)
        self.rejections = rejections


@dataclass(frozen=True, slots=True)
class Single:
    """A request of one event that has been decoded, and not yet checked."""

    body: bytes
    event: IncomingEvent
    received_micros: int
    answered: asyncio.Future[None]


class Group:
    """What is waiting, then what is under way. `add` no more once `take` was called."""

    __slots__ = ("_parts", "_singles", "_waiting", "count", "error", "trace", "undelivered")

    def __init__(self) -> None:
        self.count = 0
        self.undelivered = 0
        self.error: Exception | None = None
        self.trace: list[tuple[str, bytes]] = []
        self._parts: list[Columns] = []
        self._singles: list[Single] = []
        self._waiting: list[asyncio.Future[None]] = []

    def add(self, columns: Columns, answered: asyncio.Future[None]) -> None:
        """Checked and identified events of one request."""
        self._parts.append(columns)
        self._waiting.append(answered)
        self.count += len(columns)

    def add_single(self, single: Single) -> None:
        """One event, which is checked together with the others: that costs a third of checking it alone."""
        self._singles.append(single)
        self.count += 1

    def add_trace(self, trace: Trace) -> None:
        """Kafka headers of one request, as long as there is room."""
        if len(self.trace) + len(trace) <= MAX_TRACE_HEADERS:
            self.trace += trace

    def take(self, tenant_no: int) -> Columns | None:
        """All good events, identified; None: there is none. Requests that hold none have their answer now."""
        parts, self._parts = self._parts, []
        if self._singles:
            columns = self._check_singles()
            if columns is not None:
                identify(columns, tenant_no)
                parts.append(columns)
            self._singles = []
        return concatenate(parts) if parts else None

    def settle(self) -> None:
        """Tell every request, once nothing is under way any more."""
        for answered in self._waiting:
            if answered.done():  # its client went away
                continue
            if self.error is None:
                answered.set_result(None)
            else:
                answered.set_exception(self.error)

    def fail(self, error: Exception) -> None:
        """Tell every request that has no answer yet, when taking or packing failed and nothing is under way."""
        self._waiting += [single.answered for single in self._singles]
        self.error = error
        self.settle()

    def _check_singles(self) -> Columns | None:
        singles = self._singles
        events = [single.event for single in singles]
        try:
            columns = check_columns(events, min(single.received_micros for single in singles))
        except Suspect:
            return self._check_each()
        for place in columns.untimed:
            columns.times[place] = singles[place].received_micros
        self._waiting += [single.answered for single in singles]
        return columns

    def _check_each(self) -> Columns | None:
        """One of them may be bad: look at each, and refuse the bad ones as if they had come alone."""
        good: list[IncomingEvent] = []
        micros: list[int] = []
        for single in self._singles:
            try:
                micros.append(check_event(single.event, single.received_micros))
            except Reject:
                _refuse(single)
            else:
                good.append(single.event)
                self._waiting.append(single.answered)
        return build_columns(good, np.array(micros, np.int64)) if good else None


def _refuse(single: Single) -> None:
    decoded = decode(single.body, Form.JSON, single.received_micros)
    assert decoded.events is None, "an event is good or bad, whoever looks"
    if not single.answered.done():
        single.answered.set_exception(AllRejected(decoded.rejections))
