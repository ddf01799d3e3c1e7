"""Who is asking: bearer keys, their roles, and the cache that keeps PostgreSQL off the hot path.

A key is `mtr_` and 43 random characters; only its SHA-256 is stored. A cached key goes on working for
`STALE_SECONDS` while PostgreSQL is away; a key that is not cached is then a 503, never a 401.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from infra.postgres.api_keys import load_principal
from infra.postgres.pool import Database, Row
from schemas.errors import Forbidden, Retry, Unauthenticated

SECRET_PREFIX = "mtr_"  # noqa: S105 - it opens nothing; it lets scanners recognise a leaked key
MAX_SECRET_LENGTH = 256  # characters; a longer bearer is no key of ours
STALE_SECONDS = 3600  # how long a cached key outlives PostgreSQL
MAX_CACHED_KEYS = 10_000
RECHECK_SECONDS = 0.2
RENEW_SHARE = 0.5  # of its freshness after which a key in use is looked up again


class Role(StrEnum):
    """What an API key may do. An operator may do all that an admin may, and make tenants."""

    OPERATOR = "operator"
    ADMIN = "admin"
    INGEST = "ingest"
    READ = "read"
    CHECK = "check"


class Scope(StrEnum):
    """What a route needs: `operate` tenants, `write`, `ingest` events, `read`, `check` entitlements."""

    OPERATE = "operate"
    WRITE = "write"
    INGEST = "ingest"
    READ = "read"
    CHECK = "check"


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.OPERATOR: frozenset(Scope),
    Role.ADMIN: frozenset(Scope) - {Scope.OPERATE},
    Role.INGEST: frozenset({Scope.INGEST}),
    Role.READ: frozenset({Scope.READ}),
    Role.CHECK: frozenset({Scope.CHECK}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The key that asks, and the tenant everything it touches belongs to. `has_clocks`: the tenant has test clocks."""

    tenant_no: int
    tenant_id: str
    key_id: str
    role: Role
    has_clocks: bool = False

    def may(self, scope: Scope) -> bool:
        return scope in SCOPES[self.role]


@dataclass(frozen=True, slots=True)
class _Entry:
    principal: Principal
    loaded_at: float  # time.monotonic() before PostgreSQL was asked
    asked_at: float  # the same; when PostgreSQL was away then, when that was found
    rechecked_at: float = 0  # the same, if `recheck` asked


def new_secret() -> str:
    """A new bearer key: 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def secret_sha256(secret: str) -> bytes:
    """What is stored of a key. The key is random, so a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode()).digest()


class KeyCache:
    """Bearer → Principal. Safe for threads; holds at most MAX_CACHED_KEYS good and as many bad ones, the oldest goes
    first: whoever guesses keys pushes no good one out.

    A revoked key stops at once in the process that revokes it and within `fresh_seconds` in the others. A key in use
    is looked up again in good time and by one thread, so that its users need not wait, and do not all ask at once.
    """

    def __init__(
        self, database: Database, *, fresh_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._fresh_seconds = fresh_seconds
        self._renew_seconds = fresh_seconds * RENEW_SHARE
        self._monotonic = monotonic
        self._good: dict[bytes, _Entry] = {}
        self._bad: dict[bytes, float] = {}  # when PostgreSQL was asked
        self._renewing: set[bytes] = set()
        self._forgotten = 0  # how often something was
        self._lock = threading.Lock()

    def cached(self, bearer: str) -> Principal | None:
        """The principal of a freshly cached good key, without waiting; None says `lookup` must be asked.

        It is None before its time to one caller of many, who renews it.
        """
        digest = secret_sha256(bearer)
        entry = self._good.get(digest)
        if entry is None:
            return None
        age_seconds = self._monotonic() - entry.asked_at
        if age_seconds >= self._fresh_seconds:
            return None
        if age_seconds >= self._renew_seconds and digest not in self._renewing:
            self._renewing.add(digest)
            return None
        return entry.principal

    def lookup(self, bearer: str) -> Principal:
        """The principal of a key. May wait for PostgreSQL: call it in a thread.

        Raises Unauthenticated (`auth.invalid_key`) and, when PostgreSQL is away and the key is not cached, Retry.
        """
        digest = secret_sha256(bearer)
        now = self._monotonic()
        try:
            entry = self._good.get(digest)
            if entry is not None and now - entry.asked_at < self._renew_seconds:
                return entry.principal
            bad_since = self._bad.get(digest)
            if bad_since is not None and now - bad_since < self._fresh_seconds:
                raise _invalid_key()
            principal = self._reload(digest, entry, now)
        finally:
            self._renewing.discard(digest)
        if principal is None:
            raise _invalid_key()
        return principal

    def recheck(self, bearer: str) -> Principal:
        """The principal as it is now, whatever is cached: asked at most once in RECHECK_SECONDS a key. May wait for
        PostgreSQL, and raises as `lookup` does."""
        digest = secret_sha256(bearer)
        now = self._monotonic()
        entry = self._good.get(digest)
        if entry is not None and now - entry.rechecked_at < RECHECK_SECONDS:
            return entry.principal
        principal = self._reload(digest, entry, now, rechecked_at=now)
        if principal is None:
            raise _invalid_key()
        return principal

    def forget_tenant(self, tenant_id: str) -> None:
        """Ask PostgreSQL again for the keys of this tenant: something of it has just changed that they carry."""
        with self._lock:
            self._forgotten += 1
            for digest in [key for key, entry in self._good.items() if entry.principal.tenant_id == tenant_id]:
                del self._good[digest]

    def forget(self, digest: bytes) -> None:
        """Ask PostgreSQL again for the key with this SHA-256: it has just been made or revoked."""
        with self._lock:
            self._forgotten += 1
            self._good.pop(digest, None)
            self._bad.pop(digest, None)

    def _reload(self, digest: bytes, known: _Entry | None, now: float, *, rechecked_at: float = 0) -> Principal | None:
        forgotten = self._forgotten
        try:
            with self._database.transaction() as connection:
                row = load_principal(connection, secret_sha256=digest)
        except Retry:
            if known is None or now - known.loaded_at >= STALE_SECONDS:
                raise
            # Nobody else need wait for PostgreSQL in vain until it is asked again. To find it away took a while itself.
            self._keep(digest, replace(known, asked_at=self._monotonic()), forgotten)
            return known.principal
        principal = None if row is None else _map_principal(row)
        self._keep(
            digest, None if principal is None else _Entry(principal, now, now, rechecked_at), forgotten, bad_since=now
        )
        return principal

    def _keep(self, digest: bytes, entry: _Entry | None, forgotten: int, *, bad_since: float = 0) -> None:
        with self._lock:
            if forgotten != self._forgotten:
                return  # the key may have been revoked after it was read: let the next one ask
            self._good.pop(digest, None)
            self._bad.pop(digest, None)
            _make_room(self._good if entry else self._bad)
            if entry is None:
                self._bad[digest] = bad_since
            else:
                self._good[digest] = entry


def _make_room(entries: dict[bytes, Any]) -> None:
    while len(entries) >= MAX_CACHED_KEYS:
        del entries[next(iter(entries))]


def _invalid_key() -> Unauthenticated:
    return Unauthenticated("auth.invalid_key", "This API key is unknown or has been revoked.")


def _map_principal(row: Row) -> Principal:
    return Principal(
        tenant_no=row["tenant_no"],
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        role=Role(row["role"]),
        has_clocks=row["has_clocks"],
    )


def bearer_of(authorization: str | None) -> str:
    """The key of an `Authorization` header. Raises Unauthenticated when there is none, or none of ours."""
    scheme, _, bearer = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not bearer.strip():
        raise Unauthenticated("auth.missing_key", "Send the API key as `Authorization: Bearer mtr_…`.")
    bearer = bearer.strip()
    if len(bearer) > MAX_SECRET_LENGTH or not bearer.isascii():
        raise Unauthenticated("auth.invalid_key", "This is not an API key.")
    return bearer


async def authenticate(request: Request) -> Principal:
    """Who sends this request; looked up once a request. Raises as `bearer_of` and `KeyCache.lookup` do."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        bearer = bearer_of(request.headers.get("authorization"))
        keys: KeyCache = request.app.state.context.keys
        principal = keys.cached(bearer) or await run_in_threadpool(keys.lookup, bearer)
        request.state.principal = principal
    return principal


def check_scope(principal: Principal, *scopes: Scope) -> None:
    """Raise Forbidden unless the key reaches one of the scopes."""
    if not any(principal.may(scope) for scope in scopes):
        needed = " or ".join(scopes)
        raise Forbidden(
            "auth.forbidden", f"This needs a key that may {needed}; this one has the role {principal.role}."
        )


def require(*scopes: Scope) -> Callable[[Request], Awaitable[Principal]]:
    """A FastAPI dependency that gives the Principal, or refuses a key that reaches none of the scopes."""

    async def dependency(request: Request) -> Principal:
        principal = await authenticate(request)
        check_scope(principal, *scopes)
        return principal

    return dependency


Operator = Annotated[Principal, Depends(require(Scope.OPERATE))]
Admin = Annotated[Principal, Depends(require(Scope.WRITE))]
Reader = Annotated[Principal, Depends(require(Scope.READ))]
Checker = Annotated[Principal, Depends(require(Scope.CHECK))]
CheckerOrReader = Annotated[Principal, Depends(require(Scope.CHECK, Scope.READ))]
