"""`POST /v1/events` under an Idempotency-Key: its first answer is kept for a day, as that of every other POST.

Only requests that carry the header come here: they wait for PostgreSQL twice, and are refused while it is away. The
events go on the log in between, held by no transaction. After a crash there, or with two requests at once under one
key, they go there twice; their ids count once, and both requests have the answer that was kept first.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool

from infra.intake.decode import Form
from infra.postgres import idempotency
from infra.postgres.pool import Database, PgConnection
from ingestion_api.idempotency import check_key, check_same


class Answer(NamedTuple):
    """202 and its counts, or, when it was kept under a key, a problem document of a status below 500."""

    status: int
    body: bytes
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """What is asked under which key, and by whom."""

    tenant_id: str
    key: str
    sha256: bytes


def request_of(key: bytes, tenant_id: str, form: Form, body: bytes) -> KeyedRequest:
    """The request as its events say it: unpacked, and with the headers of binary mode; so packed anew it is the same.

    Raises Reject when the key can be none.
    """
    text = key.decode("latin-1")
    check_key(text)
    return KeyedRequest(tenant_id, text, hashlib.sha256(b"POST /v1/events %b\n%b" % (form.encode(), body)).digest())


class KeyedAnswers:
    """The answers that are kept in PostgreSQL. Raises Retry (`store.unavailable`) while it is away."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def once(self, request: KeyedRequest, attempt: Callable[[], Awaitable[tuple[int, bytes]]]) -> Answer:
        """The answer that is kept, else that of the attempt, which is kept then; what it raises is not.

        Raises Conflict when the key was used for another request.
        """
        kept = await run_in_threadpool(self._find, request)
        if kept is not None:
            return kept
        status, body = await attempt()
        return await run_in_threadpool(self._keep, request, status, body)

    def _find(self, request: KeyedRequest) -> Answer | None:
        with self._database.transaction() as connection:
            return self._claim(connection, request)

    def _keep(self, request: KeyedRequest, status: int, body: bytes) -> Answer:
        with self._database.transaction() as connection:
            kept = self._claim(connection, request)
            if kept is not None:
                return kept
            idempotency.store(
                connection,
                tenant_id=request.tenant_id,
                key=request.key,
                request_sha256=request.sha256,
                status=status,
                body=body,
                now=self._clock(),
            )
        return Answer(status, body)

    def _claim(self, connection: PgConnection, request: KeyedRequest) -> Answer | None:
        row = idempotency.claim(connection, tenant_id=request.tenant_id, key=request.key, now=self._clock())
        if row is None:
            return None
        check_same(row["request_sha256"], request.sha256)
        return Answer(row["status"], row["body"], replayed=True)
