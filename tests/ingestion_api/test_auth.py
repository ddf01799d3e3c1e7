import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.postgres.api_keys import load_principal
from infra.postgres.pool import Database
from infra.postgres.tenants import ensure_root_key
from ingestion_api import auth
from ingestion_api.auth import RENEW_SHARE, STALE_SECONDS, KeyCache, Principal, Role, Scope, new_secret, secret_sha256
from schemas.errors import Conflict, Retry, Unauthenticated
from tests.support.api import ROOT_KEY, Api

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def code_of(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()["code"]


def test_a_request_without_a_key_is_401(api: Api) -> None:
    response = api.with_key(None).get("/v1/customers")
    assert response.status_code == 401
    assert code_of(response) == "auth.missing_key"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer   ", "mtr_naked"])
def test_another_scheme_or_no_token_is_a_missing_key(api: Api, authorization: str) -> None:
    response = api.http.get("/v1/customers", headers={"authorization": authorization})
    assert (response.status_code, code_of(response)) == (401, "auth.missing_key")


@pytest.mark.parametrize("secret", ["mtr_unknown", "x" * 10_000, "mtr_\xe9"])
def test_a_key_that_nobody_has_is_invalid(api: Api, secret: str) -> None:
    response = api.http.get("/v1/customers", headers={"authorization": f"Bearer {secret}".encode("latin-1")})
    assert (response.status_code, code_of(response)) == (401, "auth.invalid_key")


def test_the_key_is_looked_at_before_the_body(api: Api) -> None:
    response = api.with_key(None).post("/v1/customers", content=b"{")
    assert response.status_code == 401


ROUTES = {
    "operate": ("POST", "/v1/tenants"),
    "write": ("POST", "/v1/customers"),
    "read": ("GET", "/v1/customers"),
    "check": ("POST", "/v1/entitlements/check"),
}
MAY = {
    "admin": {"write", "read", "check"},
    "read": {"read"},
    "check": {"check"},
    "ingest": set[str](),
}


@pytest.mark.parametrize("role", MAY)
@pytest.mark.parametrize("need", ROUTES)
def test_a_key_reaches_as_far_as_its_role(api: Api, role: str, need: str) -> None:
    secret = api.post("/v1/api_keys", {"name": role, "role": role})["secret"]
    method, path = ROUTES[need]
    response = api.with_key(secret).request(method, path, json={} if method == "POST" else None)
    if need in MAY[role]:
        assert response.status_code in (200, 422)
    else:
        assert (response.status_code, code_of(response)) == (403, "auth.forbidden")


def test_the_operator_may_do_all(operator: Api) -> None:
    assert operator.get("/v1/customers")["object"] == "list"
    tenant = operator.post("/v1/tenants", {"name": "Another"})
    assert tenant["object"] == "tenant"
    assert tenant["api_key"].startswith("mtr_")


def test_a_secret_is_shown_once_and_stored_as_its_sha256(api: Api) -> None:
    made = api.post("/v1/api_keys", {"name": "reader", "role": "read"})
    assert "secret" not in api.get(f"/v1/api_keys/{made['id']}")
    assert all("secret" not in key for key in api.get("/v1/api_keys")["data"])
    with api.database.transaction() as connection:
        row = connection.execute("SELECT secret_sha256 FROM api_keys WHERE id = %s", (made["id"],)).fetchone()
    assert row is not None
    assert bytes(row["secret_sha256"]) == secret_sha256(made["secret"])


@pytest.mark.parametrize("how", ["revoke", "delete"])
def test_a_revoked_key_opens_nothing_at_once(api: Api, how: str) -> None:
    made = api.post("/v1/api_keys", {"name": "reader", "role": "read"})
    reader = api.with_key(made["secret"])
    assert reader.get("/v1/customers").status_code == 200
    path = f"/v1/api_keys/{made['id']}"
    response = api.http.post(f"{path}/revoke") if how == "revoke" else api.http.delete(path)
    assert response.status_code == 200
    assert response.json()["revoked_at"] is not None
    assert code_of(reader.get("/v1/customers")) == "auth.invalid_key"
    assert api.get(path)["revoked_at"] == response.json()["revoked_at"]


def test_a_key_does_not_revoke_itself(api: Api) -> None:
    [first] = api.get("/v1/api_keys")["data"]
    assert api.post(f"/v1/api_keys/{first['id']}/revoke", {}, status=409)["code"] == "api_key.in_use"


def test_an_operator_key_can_not_be_made_over_http(operator: Api) -> None:
    answer = operator.post("/v1/api_keys", {"name": "mine", "role": "operator"}, status=422)
    assert answer["errors"][0]["pointer"] == "/role"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_cached_key_outlives_postgresql_up_to_its_limit_and_an_unknown_one_is_503(api: Api) -> None:
    database, clock = Database(api.settings.postgres_dsn), Clock()
    keys = KeyCache(database, fresh_seconds=10, monotonic=clock)
    principal = keys.lookup(ROOT_KEY)
    assert principal.role is Role.OPERATOR
    database.close()
    clock.seconds = 60
    assert keys.cached(ROOT_KEY) is None
    assert keys.lookup(ROOT_KEY) == principal
    with pytest.raises(Retry, match=r"store\.unavailable"):
        keys.lookup(new_secret())
    clock.seconds = STALE_SECONDS + 1
    with pytest.raises(Retry, match=r"store\.unavailable"):
        keys.lookup(ROOT_KEY)


def test_a_cache_learns_of_a_revocation_within_its_freshness(api: Api) -> None:
    clock = Clock()
    keys = KeyCache(api.database, fresh_seconds=10, monotonic=clock)
    made = api.post("/v1/api_keys", {"name": "reader", "role": "read"})
    assert keys.lookup(made["secret"]).key_id == made["id"]
    api.post(f"/v1/api_keys/{made['id']}/revoke", {}, status=200)
    assert keys.lookup(made["secret"]).key_id == made["id"]
    clock.seconds = 10
    with pytest.raises(Unauthenticated):
        keys.lookup(made["secret"])


def test_the_root_key_may_be_set_by_many_processes_at_once_and_replaced(fresh_stack: Any) -> None:
    from infra.migrate import migrate_postgres
    from infra.postgres.pool import connect

    connection = connect(fresh_stack.postgres_dsn)
    migrate_postgres(connection)
    database = Database(fresh_stack.postgres_dsn)
    failures: list[Exception] = []

    def ensure(secret: str) -> None:
        try:
            with database.transaction() as own:
                ensure_root_key(own, secret_sha256=secret_sha256(secret), now=NOW)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ensure, args=("mtr_one",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    keys = KeyCache(database, fresh_seconds=0)
    assert keys.lookup("mtr_one").tenant_id == "ten_default"
    ensure("mtr_two")
    assert keys.lookup("mtr_two").role is Role.OPERATOR
    with pytest.raises(Unauthenticated):
        keys.lookup("mtr_one")
    connection.execute(
        "INSERT INTO api_keys (id, tenant_id, name, role, secret_sha256, created_at)"
        " VALUES ('key_x', 'ten_default', 'x', 'read', %s, %s)",
        (secret_sha256("mtr_taken"), NOW),
    )
    ensure("mtr_taken")
    assert isinstance(failures[0], Conflict)
    assert keys.lookup("mtr_two").role is Role.OPERATOR
    connection.close()
    database.close()


def test_every_role_has_its_scopes() -> None:
    assert {role for role in Role if Principal(tenant_no=1, tenant_id="t", key_id="k", role=role).may(Scope.WRITE)} == {
        Role.OPERATOR,
        Role.ADMIN,
    }


@pytest.mark.parametrize(("method", "path"), [("POST", "/revoke"), ("DELETE", "")])
def test_no_admin_of_the_operators_tenant_shuts_the_operators_key(operator: Api, method: str, path: str) -> None:
    admin = operator.with_key(operator.post("/v1/api_keys", {"name": "second", "role": "admin"})["secret"])
    response = admin.request(method, f"/v1/api_keys/key_root{path}")
    assert (response.status_code, code_of(response)) == (403, "auth.forbidden")
    assert operator.get("/v1/api_keys/key_root")["revoked_at"] is None


def test_a_key_in_use_is_renewed_by_one_caller_and_nobody_else_waits(api: Api) -> None:
    clock = Clock()
    keys = KeyCache(api.database, fresh_seconds=10, monotonic=clock)
    principal = keys.lookup(ROOT_KEY)
    clock.seconds = 10 * RENEW_SHARE
    assert [keys.cached(ROOT_KEY) for _ in range(3)] == [None, principal, principal]
    keys.lookup(ROOT_KEY)
    clock.seconds = 10 * RENEW_SHARE + 9
    assert keys.cached(ROOT_KEY) is None
    clock.seconds = 14
    assert keys.cached(ROOT_KEY) == principal


def test_while_postgresql_is_away_it_is_asked_once_in_a_while_and_not_for_each_request(api: Api) -> None:
    database, clock = Database(api.settings.postgres_dsn), Clock()
    keys = KeyCache(database, fresh_seconds=10, monotonic=clock)
    principal = keys.lookup(ROOT_KEY)
    database.close()
    clock.seconds = 60
    assert keys.lookup(ROOT_KEY) == principal
    assert keys.cached(ROOT_KEY) == principal
    clock.seconds = 60 + 10
    assert keys.cached(ROOT_KEY) is None


def test_the_cache_is_bounded_and_guesses_push_no_good_key_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_CACHED_KEYS", 3)
    keys = KeyCache(api.database, fresh_seconds=10, monotonic=Clock())
    keys.lookup(ROOT_KEY)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            keys.lookup(new_secret())
    assert keys.cached(ROOT_KEY) is not None
    assert len(keys._bad) == 3
    for number in range(3):
        keys.lookup(api.post("/v1/api_keys", {"name": f"{number}", "role": "read"})["secret"])
    assert len(keys._good) == 3
    assert keys.cached(ROOT_KEY) is None


def test_a_key_that_nobody_has_is_not_asked_for_again_until_it_is_stale_or_made(api: Api) -> None:
    database, clock = Database(api.settings.postgres_dsn), Clock()
    keys = KeyCache(database, fresh_seconds=10, monotonic=clock)
    with pytest.raises(Unauthenticated):
        keys.lookup("mtr_guess")
    database.close()
    clock.seconds = 9
    with pytest.raises(Unauthenticated):
        keys.lookup("mtr_guess")
    keys.forget(secret_sha256("mtr_guess"))
    with pytest.raises(Retry):
        keys.lookup("mtr_guess")


def test_a_revocation_during_a_lookup_is_not_overwritten_by_what_was_read_before(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyCache(api.database, fresh_seconds=10, monotonic=Clock())

    def read_then_revoked(connection: Any, *, secret_sha256: bytes) -> Any:
        row = load_principal(connection, secret_sha256=secret_sha256)
        keys.forget(secret_sha256)
        return row

    monkeypatch.setattr(auth, "load_principal", read_then_revoked)
    keys.lookup(ROOT_KEY)
    assert keys.cached(ROOT_KEY) is None
