"""Decoded events to the log, and back the word that the broker has them.

Requests of one tenant that come within a few milliseconds of each other share messages: a message costs the
broker and the flow about the same whatever it holds. Everything here runs in the event loop's one thread.
"""

import asyncio
from collections.abc import Awaitable

from infra.intake.columns import Columns
from infra.intake.event import IncomingEvent
from infra.intake.pack import pack
from infra.kafka.producer import Headers, Producer
from ingestion_api.ingest.group import Group, Single
from ingestion_api.ingest.trace import Trace
from schemas.errors import Retry
from schemas.events import HEADER_COUNT, HEADER_TENANT_NO

#: A group of requests is sent at once when it has so many events. With a request more it stays within 65,536.
FULL_GROUP_EVENTS = 5_000
POLL_SECONDS = 0.002
#: How much longer than the linger a group that is not full may wait for an earlier one.
MAX_HOLD_SECONDS = 0.02


class Flight:
    """Bytes that one request holds, from its first to its answer; `with` gives them back."""

    __slots__ = ("_publisher", "size_bytes")

    def __init__(self, publisher: "Publisher") -> None:
        self._publisher = publisher
        self.size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Hold at least so many. Raises Retry when the process holds too many already."""
        if size_bytes > self.size_bytes:
            self._publisher.admit(size_bytes - self.size_bytes)
            self.size_bytes = size_bytes

    def __enter__(self) -> "Flight":
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.release(self.size_bytes)


class Publisher:
    """One a process. `run` must be running while anybody waits for `publish`."""

    def __init__(
        self, producer: Producer, *, topic: str, partitions: int, linger_ms: int, max_bytes_in_flight: int
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._linger_seconds = linger_ms / 1000
        self._max_bytes_in_flight = max_bytes_in_flight
        self._bytes_in_flight = 0
        self._groups: dict[int, Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._undelivered = 0
        self._lingered_undelivered = 0
        self._due = False  # the linger of what waits is over
        self._busy = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def flight(self) -> "Flight":
        """The account of one request's bytes; see `Flight`."""
        return Flight(self)

    def admit(self, size_bytes: int) -> None:
        """Count bytes as in flight. Raises Retry when there are too many; one request alone always passes."""
        if self._bytes_in_flight > 0 and self._bytes_in_flight + size_bytes > self._max_bytes_in_flight:
            raise Retry("ingest.overloaded", "Too many events wait for the broker; send them again later.")
        self._bytes_in_flight += size_bytes

    def release(self, size_bytes: int) -> None:
        """Bytes are no longer held."""
        self._bytes_in_flight -= size_bytes

    def publish(self, columns: Columns, tenant_no: int, trace: Trace = ()) -> Awaitable[None]:
        """Take the events over; wait for what this returns: it ends when the broker has every one of them.

        Raises Retry (`broker.unavailable`) then, when it does not; some of the events may be on the log all the same.
        """
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group = self._group_of(tenant_no)
        group.add(columns, answered)
        group.add_trace(trace)
        self._advance(tenant_no, group)
        return answered

    def publish_from_thread(self, columns: Columns, tenant_no: int, size_bytes: int) -> None:
        """`publish`, for another thread than the loop's: it waits there until the broker has the events.

        `size_bytes` of the request count as in flight meanwhile. Raises Retry.
        """
        assert self._loop is not None, "`run` is running"

        async def publish() -> None:
            with self.flight() as flight:
                flight.grow_to(size_bytes)
                await self.publish(columns, tenant_no)

        asyncio.run_coroutine_threadsafe(publish(), self._loop).result()

    def publish_single(
        self, body: bytes, event: IncomingEvent, received_micros: int, tenant_no: int, trace: Trace = ()
    ) -> Awaitable[None]:
        """The same for the one event of a body, decoded and not yet checked. Raises AllRejected too."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group = self._group_of(tenant_no)
        group.add_single(Single(body, event, received_micros, answered))
        group.add_trace(trace)
        self._advance(tenant_no, group)
        return answered

    def _group_of(self, tenant_no: int) -> Group:
        group = self._groups.get(tenant_no)
        if group is None:
            group = self._groups[tenant_no] = Group()
        return group

    def _advance(self, tenant_no: int, group: Group) -> None:
        """Send the group if it is full; else see to it that it will be sent."""
        if group.count >= FULL_GROUP_EVENTS:
            self._send(tenant_no, self._groups.pop(tenant_no))
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger_seconds, self._send_unless_busy)

    def _send_unless_busy(self) -> None:
        """The linger is over. While earlier such groups are under way, wait for them, but not for long: what comes
        meanwhile shares messages, so that messages grow with the load and their number does not."""
        if self._lingered_undelivered == 0:
            self._send_all()
        else:
            self._due = True
            self._timer = asyncio.get_running_loop().call_later(MAX_HOLD_SECONDS, self._send_all)

    def _send_all(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = False
        groups, self._groups = self._groups, {}
        for tenant_no, group in groups.items():
            self._lingered_undelivered += self._send(tenant_no, group, lingered=True)

    def _send(self, tenant_no: int, group: Group, *, lingered: bool = False) -> int:
        """Pack the group and hand its messages to the producer; how many it took.

        Raises nothing: what goes wrong is the answer of this group's requests, and of no other's.
        """
        try:
            columns = group.take(tenant_no)
            messages = [] if columns is None else pack(columns, tenant_no, self._partitions)
        except Exception as error:  # a fault of ours: the requests say so and log it
            group.fail(error)
            return 0
        group.undelivered = len(messages)
        taken = 0

        def delivered(error: str | None) -> None:
            self._undelivered -= 1
            self._settle_one(group, None if error is None else _unavailable(error))
            if lingered:
                self._lingered_undelivered -= 1
                if self._due and self._lingered_undelivered == 0:
                    self._send_all()

        for message in messages:
            headers: Headers = [(HEADER_TENANT_NO, str(tenant_no)), (HEADER_COUNT, str(message.count)), *group.trace]
            try:
                self._producer.send(self._topic, message.partition, message.value, headers, delivered)
            except Exception as error:  # Retry, or a fault of ours
                self._settle_one(group, error)
            else:
                taken += 1
        self._undelivered += taken
        self._busy.set()
        return taken

    def _settle_one(self, group: Group, error: Exception | None) -> None:
        group.undelivered -= 1
        group.error = group.error or error
        if group.undelivered == 0:
            group.settle()

    async def run(self) -> None:
        """Run delivery callbacks until cancelled; sleeps while nothing is in flight."""
        self._loop = asyncio.get_running_loop()
        while True:
            if self._undelivered == 0:
                self._busy.clear()
                await self._busy.wait()
            self._producer.poll()
            await asyncio.sleep(POLL_SECONDS)


def _unavailable(reason: str) -> Retry:
    return Retry(
        "broker.unavailable", f"The broker did not acknowledge in time ({reason}); send the same events again."
    )
