"""One POST is one transaction: its effect and, when it carried an Idempotency-Key, its answer.

Same key and body: the first answer again, with `idempotent-replayed: true`. Same key, another body (or path): 409
`idempotency.conflict`. Two at once: the second waits for the first; `act` says where not. As with Stripe, what is kept
is the answer of an effect that was tried, so a 404 or 409 is replayed too; a request refused before that (key, role,
unreadable or invalid body) leaves the key free, and so does a 503, which changed nothing.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from secrets import token_bytes
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from starlette.responses import Response

from infra.postgres import idempotency
from infra.postgres.pool import Database, PgConnection, Row
from infra.webhooks.signatures import SECRET_BYTES, to_secret
from ingestion_api.answers import answer, encode
from ingestion_api.auth import SECRET_PREFIX, Principal, Scope, bearer_of, new_secret, require
from ingestion_api.clock import Now
from ingestion_api.entitlements.replica import Replica
from ingestion_api.problems import problem, request_id_of
from schemas.errors import Conflict, MeterlineError, Reject, Retry

MAX_KEY_LENGTH = 255
REPLAYED = "idempotent-replayed"

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}")
_HIDDEN_SECRET = b"mtr_********"  # stands in a kept answer where the secret was

Effect = Callable[[PgConnection], Any]

KEY_DESCRIPTION = (
    "A name of your own for this request, e.g. a UUID. Sent again within 24 hours with the same body, it is answered as"
    " the first time and nothing happens twice."
)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=KEY_DESCRIPTION,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A POST about to happen: who, when, and under which key."""

    database: Database
    replica: Replica
    principal: Principal
    now: datetime
    key: str | None
    request_sha256: bytes
    path: str
    request_id: str
    bearer: str

    @property
    def tenant_id(self) -> str:
        return self.principal.tenant_id

    def perform(self, effect: Effect, *, status: int = 201, secret: str | None = None) -> Response:
        """Run the effect in one transaction and answer with the view it returns.

        `secret` (of `make_secret`) is text of the answer that must not be kept; a replay puts it in again.
        """
        return self._once(lambda connection: (status, effect(connection)), secret)

    def act(self, effect: Callable[[], tuple[int, Any]]) -> Response:
        """Answer with the status and the view of something that no transaction holds, and that may take seconds.

        It must do no harm when it happens again: after a crash it does, and two at once under one key both do it; then
        both have the answer that was kept first. No connection is held meanwhile, and without a key no store is asked.
        """
        if self.key is None:
            status, view = effect()
            return answer(view, status)
        with self.database.transaction() as connection:
            kept = self._claim(connection, self.key)
        if kept is not None:
            return self._replay(kept["request_sha256"], kept["status"], kept["body"], None)
        given_status, body = self._attempt(effect)
        with self.database.transaction() as connection:
            kept = self._claim(connection, self.key)
            if kept is not None:
                return self._replay(kept["request_sha256"], kept["status"], kept["body"], None)
            self._keep(connection, self.key, given_status, body)
        return _response(given_status, body, replayed=False)

    def _once(self, effect: Callable[[PgConnection], tuple[int, Any]], secret: str | None) -> Response:
        def in_savepoint() -> tuple[int, Any]:
            with connection.transaction():  # a refused effect leaves nothing but its answer
                return effect(connection)

        with self.replica.fence(self.tenant_id) as raise_fence, self.database.transaction() as connection:
            if self.key is None:
                status, view = effect(connection)
                raise_fence(connection)
                return answer(view, status)
            kept = self._claim(connection, self.key)
            if kept is not None:
                return self._replay(kept["request_sha256"], kept["status"], kept["body"], secret)
            given_status, body = self._attempt(in_savepoint)
            hidden = body if secret is None else body.replace(secret.encode(), _HIDDEN_SECRET)
            self._keep(connection, self.key, given_status, hidden)
            raise_fence(connection)
        return _response(given_status, body, replayed=False)

    def _claim(self, connection: PgConnection, key: str) -> Row | None:
        return idempotency.claim(connection, tenant_id=self.tenant_id, key=key, now=self.now)

    def _keep(self, connection: PgConnection, key: str, status: int, body: bytes) -> None:
        idempotency.store(
            connection,
            tenant_id=self.tenant_id,
            key=key,
            request_sha256=self.request_sha256,
            status=status,
            body=body,
            now=self.now,
        )

    def compute(self, effect: Callable[[], Any]) -> Response:
        """Answer with what a pure function returns; without an Idempotency-Key no store is asked."""
        if self.key is None:
            return answer(effect())
        return self.perform(lambda _connection: effect(), status=200)

    def make_secret(self) -> str:
        """A new API key. Under an Idempotency-Key it follows from that and the bearer, so that a replay can give the
        first secret again although only its SHA-256 is stored."""
        if self.key is None:
            return new_secret()
        return SECRET_PREFIX + urlsafe_b64encode(self._derived(self.key)).rstrip(b"=").decode()

    def make_signing_secret(self) -> str:
        """A new secret of a webhook endpoint, by the same rule."""
        return to_secret(token_bytes(SECRET_BYTES) if self.key is None else self._derived(self.key))

    def _derived(self, key: str) -> bytes:
        return hmac.digest(self.bearer.encode(), self.request_sha256 + key.encode(), "sha256")

    def _attempt(self, effect: Callable[[], tuple[int, Any]]) -> tuple[int, bytes]:
        try:
            status, view = effect()
            return status, encode(view)
        except Retry:
            raise
        except MeterlineError as error:
            refused, _, body = problem(error, instance=self.path, request_id=self.request_id)
            if refused >= 500:
                raise
            return refused, body

    def _replay(self, request_sha256: bytes, status: int, body: bytes, secret: str | None) -> Response:
        check_same(request_sha256, self.request_sha256)
        return _response(
            status, body if secret is None else body.replace(_HIDDEN_SECRET, secret.encode()), replayed=True
        )


def check_key(key: str) -> None:
    """Raise Reject (`idempotency.invalid_key`) for what can't be a key."""
    if not _KEY.fullmatch(key):
        raise Reject.at(
            "/Idempotency-Key", "idempotency.invalid_key", f"1 to {MAX_KEY_LENGTH} visible ASCII characters."
        )


def check_same(kept_sha256: bytes, request_sha256: bytes) -> None:
    """Raise Conflict (`idempotency.conflict`) when the answer that is kept was that of another request."""
    if kept_sha256 != request_sha256:
        raise Conflict(
            "idempotency.conflict",
            "This Idempotency-Key was used within the last 24 hours for another request; take a new one.",
        )


def _response(status: int, body: bytes, *, replayed: bool) -> Response:
    media_type = "application/json" if status < 400 else "application/problem+json"
    return Response(body, status, {REPLAYED: "true"} if replayed else None, media_type)


def call_for(*scopes: Scope, names_secret: bool = False) -> Callable[..., Any]:
    """A FastAPI dependency that gives the Call of a POST which needs one of the scopes.

    `names_secret`: the answer holds a secret, so only the very key that asked first may have it again.
    """

    async def dependency(
        request: Request,
        principal: Annotated[Principal, Depends(require(*scopes))],
        now: Now,
        key: IdempotencyKey = None,
    ) -> Call:
        if key is not None:
            check_key(key)
        asker = principal.key_id if names_secret else ""
        head = f"{request.method} {request.url.path}?{request.url.query} {asker}\n"
        return Call(
            database=request.app.state.context.database,
            replica=request.app.state.context.replica,
            principal=principal,
            now=now,
            key=key,
            request_sha256=hashlib.sha256(head.encode() + await request.body()).digest(),
            path=request.url.path,
            request_id=request_id_of(request),
            bearer=bearer_of(request.headers.get("authorization")),
        )

    return dependency


AdminCall = Annotated[Call, Depends(call_for(Scope.WRITE))]
SecretCall = Annotated[Call, Depends(call_for(Scope.WRITE, names_secret=True))]
OperatorCall = Annotated[Call, Depends(call_for(Scope.OPERATE, names_secret=True))]
#: Of whoever sends events.
SenderCall = Annotated[Call, Depends(call_for(Scope.WRITE, Scope.INGEST))]
CheckCall = Annotated[Call, Depends(call_for(Scope.CHECK))]
ReadCall = Annotated[Call, Depends(call_for(Scope.WRITE, Scope.READ))]
