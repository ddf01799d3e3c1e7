import secrets
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.postgres.idempotency import KEPT, MAX_CLEANED_AT_ONCE, claim, store
from infra.postgres.pool import Database
from infra.postgres.tenants import ROOT_TENANT_ID
from ingestion_api.auth import Principal, Role
from ingestion_api.entitlements.replica import Replica
from ingestion_api.idempotency import Call
from schemas.errors import Conflict
from tests.support.api import Api, running_api


def key(text: str) -> dict[str, str]:
    return {"idempotency-key": text}


def test_the_same_key_and_body_is_answered_as_the_first_time(api: Api) -> None:
    body = {"external_id": "acme"}
    first = api.http.post("/v1/customers", json=body, headers=key("k-1"))
    again = api.http.post("/v1/customers", json=body, headers=key("k-1"))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(api.get("/v1/customers")["data"]) == 1


def test_the_same_key_with_another_body_is_409(api: Api) -> None:
    api.post("/v1/customers", {"external_id": "acme"}, idempotency_key="k-1")
    problem = api.post("/v1/customers", {"external_id": "other"}, status=409, idempotency_key="k-1")
    assert problem["code"] == "idempotency.conflict"
    assert len(api.get("/v1/customers")["data"]) == 1


def test_the_same_key_on_another_path_is_409(api: Api) -> None:
    body = {"key": "pro", "currency": "USD", "prices": []}
    api.post("/v1/plans", body, idempotency_key="k-1")
    problem = api.post("/v1/addons", body, status=409, idempotency_key="k-1")
    assert problem["code"] == "idempotency.conflict"


def test_a_key_belongs_to_its_tenant(api: Api, operator: Api) -> None:
    body = {"external_id": "acme"}
    mine = api.post("/v1/customers", body, idempotency_key="k-1")
    other = operator.new_tenant().post("/v1/customers", body, idempotency_key="k-1")
    assert other["id"] != mine["id"]


def test_a_refusal_of_what_was_tried_is_replayed_and_left_no_effect(api: Api) -> None:
    api.post("/v1/customers", {"external_id": "acme", "subjects": ["shared"]})
    body = {"external_id": "other", "subjects": ["shared"]}
    first = api.http.post("/v1/customers", json=body, headers=key("k-1"))
    again = api.http.post("/v1/customers", json=body, headers=key("k-1"))
    assert first.status_code == again.status_code == 409
    assert again.content == first.content
    assert again.headers["content-type"] == "application/problem+json"
    assert again.headers["idempotent-replayed"] == "true"
    assert api.get("/v1/customers/other", status=404)["code"] == "customer.not_found"


def test_an_invalid_request_leaves_its_key_free(api: Api) -> None:
    api.post("/v1/customers", {"external": "acme"}, status=422, idempotency_key="k-1")
    api.post("/v1/customers", {"external_id": "acme"}, idempotency_key="k-1")


@pytest.mark.parametrize("bad", ["", "two words", "x" * 256, "\xe9"])
def test_a_key_that_can_not_be_kept_is_refused(api: Api, bad: str) -> None:
    response = api.http.post(
        "/v1/customers", json={"external_id": "acme"}, headers={"idempotency-key": bad.encode("latin-1")}
    )
    assert (response.status_code, response.json()["code"]) == (422, "idempotency.invalid_key")


def test_requests_at_once_with_one_key_have_one_effect_over_two_instances(operator: Api) -> None:
    tenant = operator.post("/v1/tenants", {"name": "busy"})
    body = {"external_id": "acme", "subjects": ["acme-1"]}
    answers: list[Any] = []
    with running_api(operator.settings) as second:
        clients = [api.with_key(tenant["api_key"]) for api in (operator, second) for _ in range(6)]
        barrier = threading.Barrier(len(clients))

        def send(client: Any) -> None:
            barrier.wait()
            answers.append(client.post("/v1/customers", json=body, headers=key("k-1")))

        threads = [threading.Thread(target=send, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    with operator.database.transaction() as connection:
        row = connection.execute(
            "SELECT count(*) AS events FROM outbox WHERE tenant_id = %s AND type = 'customer.created'", (tenant["id"],)
        ).fetchone()
    assert row is not None
    assert row["events"] == 1


def test_a_replay_shows_the_same_secret_although_none_is_stored(api: Api) -> None:
    body = {"name": "reader", "role": "read"}
    first = api.post("/v1/api_keys", body, idempotency_key="k-1")
    again = api.post("/v1/api_keys", body, idempotency_key="k-1")
    assert again == first
    assert api.with_key(first["secret"]).get("/v1/customers").status_code == 200
    with api.database.transaction() as connection:
        rows = connection.execute("SELECT body FROM idempotency_keys").fetchall()
    assert all(first["secret"].encode() not in bytes(row["body"]) for row in rows)


def test_another_key_of_the_tenant_can_not_replay_a_secret(api: Api) -> None:
    admin = api.post("/v1/api_keys", {"name": "second admin", "role": "admin"})["secret"]
    body = {"name": "reader", "role": "read"}
    api.post("/v1/api_keys", body, idempotency_key="k-1")
    response = api.with_key(admin).post("/v1/api_keys", json=body, headers=key("k-1"))
    assert (response.status_code, response.json()["code"]) == (409, "idempotency.conflict")


def test_a_kept_answer_is_forgotten_after_a_day_and_swept_a_few_at_a_time(api: Api) -> None:
    now = datetime.now(UTC)
    with api.database.transaction() as connection:
        row = connection.execute("SELECT tenant_id FROM api_keys WHERE role = 'admin' ORDER BY id DESC").fetchone()
        assert row is not None
        tenant_id = row["tenant_id"]

        def keep(name: str, at: datetime) -> None:
            store(
                connection,
                tenant_id=tenant_id,
                key=name,
                request_sha256=b"x",
                status=201,
                body=b"{}",
                now=at,
            )

        old = MAX_CLEANED_AT_ONCE + 5
        for number in range(old):
            keep(f"old-{number}", now - KEPT)
        assert claim(connection, tenant_id=tenant_id, key="old-0", now=now) is None
        assert claim(connection, tenant_id=tenant_id, key="old-0", now=now - timedelta(seconds=1)) is not None

        def left() -> int:
            found = connection.execute(
                "SELECT count(*) AS keys FROM idempotency_keys WHERE tenant_id = %s", (tenant_id,)
            ).fetchone()
            assert found is not None
            return found["keys"]

        keep("new-1", now)
        assert left() == old - MAX_CLEANED_AT_ONCE + 1
        keep("new-2", now)
        assert left() == 2
        assert claim(connection, tenant_id=tenant_id, key="new-1", now=now) is not None


def test_a_check_under_a_key_is_replayed_too(api: Api) -> None:
    api.post("/v1/pricing/quote", {}, status=422, idempotency_key="k-1")
    body = {"currency": "USD", "price": {"model": "flat", "amount": "5"}}
    first = api.post("/v1/pricing/quote", body, status=200, idempotency_key="k-2")
    assert api.post("/v1/pricing/quote", body, status=200, idempotency_key="k-2") == first


def test_what_is_done_outside_of_transactions_holds_no_connection_and_is_answered_once(operator: Api) -> None:
    with closing(Database(operator.settings.postgres_dsn, max_connections=1)) as database:
        done: list[int] = []

        def act() -> tuple[int, Any]:
            with database.transaction() as connection:  # the only one that there is
                connection.execute("SELECT 1")
            done.append(1)
            return 202, {"done": len(done)}

        call = Call(
            database=database,
            replica=Replica(operator.settings),
            principal=Principal(tenant_no=1, tenant_id=ROOT_TENANT_ID, key_id="", role=Role.ADMIN),
            now=datetime.now(UTC),
            key=secrets.token_hex(8),
            request_sha256=b"one",
            path="/v1/events/void",
            request_id="",
            bearer="",
        )
        first, again = call.act(act), call.act(act)
        with pytest.raises(Conflict):
            replace(call, request_sha256=b"other").act(act)
    assert (first.status_code, again.status_code, done) == (202, 202, [1])
    assert again.body == first.body
    assert again.headers["idempotent-replayed"] == "true"
