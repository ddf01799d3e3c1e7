"""A receiver of webhooks: a real HTTP server of this process that keeps what comes and answers as it is told."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    at_seconds: float  # by `time.monotonic`


@dataclass(slots=True, kw_only=True)
class Receiver:
    """`answers`: the statuses of the next requests, by path; 200 when none is left. `slow_seconds`: how long an answer
    takes, by path. `flaky`: paths that answer 500 to what they have not seen before."""

    url: str
    received: list[Received] = field(default_factory=list[Received])
    answers: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    answer_body: bytes = b"taken"
    slow_seconds: dict[str, float] = field(default_factory=dict[str, float])
    flaky: set[str] = field(default_factory=set[str])

    def at(self, path: str) -> list[Received]:
        return [request for request in self.received if request.path == path]


@contextmanager
def running_receiver() -> Generator[Receiver]:
    """A receiver on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            waiting = receiver.answers.get(self.path, [])
            status = waiting.pop(0) if waiting else 200
            if self.path in receiver.flaky and (self.path, headers["webhook-id"]) not in seen:
                status = 500
            seen.add((self.path, headers.get("webhook-id", "")))
            now = time.monotonic()
            receiver.received.append(Received(path=self.path, headers=headers, body=body, at_seconds=now))
            time.sleep(receiver.slow_seconds.get(self.path, 0))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", f"{receiver.url}/elsewhere")
            self.send_header("content-length", str(len(receiver.answer_body)))
            self.end_headers()
            self.wfile.write(receiver.answer_body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it so
            """Say nothing."""

    seen: set[tuple[str, str]] = set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
