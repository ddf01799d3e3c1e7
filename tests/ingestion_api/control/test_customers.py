from typing import Any
from urllib.parse import quote

import pytest

from ingestion_api.control.customers import MAX_SUBJECTS
from ingestion_api.fields import MAX_METADATA_KEYS
from tests.ingestion_api.test_worked_example import make_example
from tests.support.api import Api


def catalogue_of(api: Api, customer_id: str) -> dict[str, Any]:
    """The newest subject entries that were ever written for a customer's subjects."""
    with api.database.transaction() as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (key) key, body FROM catalogue_changes JOIN tenants ON tenants.no = tenant_no"
            " JOIN customers ON customers.tenant_id = tenants.id WHERE kind = 'subject' AND customers.id = %s"
            " ORDER BY key, version DESC",
            (customer_id,),
        ).fetchall()
    return {row["key"]: row["body"] for row in rows}


def events_of(api: Api, object_id: str) -> list[str]:
    with api.database.transaction() as connection:
        rows = connection.execute("SELECT type FROM outbox WHERE object_id = %s ORDER BY no", (object_id,)).fetchall()
    return [row["type"] for row in rows]


def test_a_customer_needs_nothing_but_an_external_id(api: Api) -> None:
    customer = api.post("/v1/customers", {"external_id": "acme"})
    assert customer["name"] == "acme"
    assert customer["timezone"] == "UTC"
    assert customer["currency"] is None
    assert customer["subjects"] == []
    assert customer["metadata"] == {}
    assert customer["id"].startswith("cus_")


def test_a_customer_is_found_by_id_and_by_external_id(api: Api) -> None:
    customer = api.post("/v1/customers", {"external_id": "acme", "metadata": {"tier": "gold"}})
    assert api.get(f"/v1/customers/{customer['id']}") == customer
    assert api.get("/v1/customers/acme") == customer
    assert api.get("/v1/customers", external_id="acme")["data"] == [customer]


@pytest.mark.parametrize("external_id", ["a b", "a?b#c", "...", "ünïcode", "a\\b", "a;b&c=d"])
def test_a_customer_is_found_by_whatever_external_id_was_accepted(api: Api, external_id: str) -> None:
    customer = api.post("/v1/customers", {"external_id": external_id})
    assert api.get(f"/v1/customers/{quote(external_id, safe='')}") == customer


def test_an_external_id_exists_once_in_a_tenant(api: Api) -> None:
    api.post("/v1/customers", {"external_id": "acme"})
    assert api.post("/v1/customers", {"external_id": "acme"}, status=409)["code"] == "customer.already_exists"


@pytest.mark.parametrize(
    "second",
    [
        {"external_id": "other", "subjects": ["acme-1"]},
        {"external_id": "acme-1"},
        {"external_id": "o", "subjects": ["acme"]},
    ],
)
def test_a_subject_is_one_customers_alone(api: Api, second: dict[str, Any]) -> None:
    api.post("/v1/customers", {"external_id": "acme", "subjects": ["acme-1"]})
    assert api.post("/v1/customers", second, status=409)["code"] == "customer.subject_taken"


def test_flows_learn_of_a_customer_and_its_subjects_in_the_same_transaction(api: Api) -> None:
    customer = api.post("/v1/customers", {"external_id": "acme", "subjects": ["acme-1", "acme"]})
    assert set(catalogue_of(api, customer["id"])) == {"acme", "acme-1"}
    changed = api.http.patch("/v1/customers/acme", json={"subjects": ["acme-2"]}).json()
    assert changed["subjects"] == ["acme-2"]
    entries = catalogue_of(api, customer["id"])
    assert entries["acme-1"] is None
    assert entries["acme"] == entries["acme-2"] is not None
    assert events_of(api, customer["id"]) == ["customer.created", "customer.updated"]


def test_a_freed_subject_may_be_another_customers(api: Api) -> None:
    api.post("/v1/customers", {"external_id": "acme", "subjects": ["shared"]})
    assert api.http.patch("/v1/customers/acme", json={"subjects": []}).status_code == 200
    assert api.post("/v1/customers", {"external_id": "other", "subjects": ["shared"]})["subjects"] == ["shared"]


def test_a_patch_changes_what_it_names_and_null_empties(api: Api) -> None:
    api.post(
        "/v1/customers",
        {"external_id": "acme", "email": "a@example.com", "currency": "EUR", "metadata": {"a": "1", "b": "2"}},
    )
    patch = {"name": "Acme", "email": None, "currency": "USD", "metadata": {"a": None, "c": "3"}}
    changed = api.http.patch("/v1/customers/acme", json=patch).json()
    assert changed["name"] == "Acme"
    assert changed["email"] is None
    assert changed["currency"] == "USD"
    assert changed["metadata"] == {"b": "2", "c": "3"}
    assert api.get("/v1/customers/acme") == changed


def test_metadata_has_at_most_its_number_of_keys_also_when_merged(api: Api) -> None:
    full = {str(number): "x" for number in range(MAX_METADATA_KEYS)}
    api.post("/v1/customers", {"external_id": "acme", "metadata": full})
    response = api.http.patch("/v1/customers/acme", json={"metadata": {"one more": "x"}})
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/metadata")


def test_the_currency_is_fixed_while_a_subscription_runs(api: Api) -> None:
    make_example(api)
    response = api.http.patch("/v1/customers/acme", json={"currency": "EUR"})
    assert (response.status_code, response.json()["code"]) == (409, "customer.currency_fixed")
    assert api.http.patch("/v1/customers/acme", json={"currency": "USD"}).status_code == 200


def test_an_archived_customer_leaves_the_lists_and_takes_no_changes(api: Api) -> None:
    customer = api.post("/v1/customers", {"external_id": "acme"})
    archived = api.post("/v1/customers/acme/archive", {}, status=200)
    assert archived["archived_at"] is not None
    assert api.post("/v1/customers/acme/archive", {}, status=200)["archived_at"] == archived["archived_at"]
    assert api.get("/v1/customers")["data"] == []
    assert [each["id"] for each in api.get("/v1/customers", archived="true")["data"]] == [customer["id"]]
    response = api.http.patch("/v1/customers/acme", json={"name": "x"})
    assert (response.status_code, response.json()["code"]) == (409, "customer.archived")
    assert events_of(api, customer["id"]) == ["customer.created", "customer.archived"]


def test_a_customer_with_a_subscription_is_not_archived(api: Api) -> None:
    make_example(api)
    assert api.post("/v1/customers/acme/archive", {}, status=409)["code"] == "customer.has_subscription"


def test_who_pays_for_a_subscription_is_not_archived_and_keeps_its_currency(api: Api) -> None:
    make_example(api)
    api.post("/v1/customers", {"external_id": "head office"})
    head_office = "/v1/customers/head office"
    assert api.http.patch("/v1/customers/acme", json={"parent": "head office"}).status_code == 200
    assert api.post(f"{head_office}/archive", {}, status=409)["code"] == "customer.has_subscription"
    refused = api.http.patch(head_office, json={"currency": "EUR"})
    assert (refused.status_code, refused.json()["code"]) == (409, "customer.currency_fixed")
    assert api.http.patch("/v1/customers/acme", json={"parent": None}).status_code == 200
    assert api.post(f"{head_office}/archive", {}, status=200)["archived_at"] is not None


def test_a_list_is_paged_newest_first_without_gap_or_overlap(api: Api) -> None:
    made = [api.post("/v1/customers", {"external_id": f"c-{number}"})["id"] for number in range(7)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get("/v1/customers", limit=3, **cursor)
        seen += [customer["id"] for customer in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        cursor = {"starting_after": page["next_cursor"]}
    assert seen == made[::-1]


def test_a_page_that_is_just_full_has_no_more(api: Api) -> None:
    for number in range(3):
        api.post("/v1/customers", {"external_id": f"c-{number}"})
    page = api.get("/v1/customers", limit=3)
    assert (len(page["data"]), page["has_more"], page["next_cursor"]) == (3, False, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("external_id", ""),
        ("external_id", " acme"),
        ("external_id", "a\nb"),
        ("external_id", "acme/prod"),
        ("external_id", "/"),
        ("external_id", ".."),
        ("external_id", "."),
        ("external_id", "x" * 256),
        ("external_id", 5),
        ("name", ""),
        ("name", "   "),
        ("email", "nobody"),
        ("currency", "usd"),
        ("currency", "XXX"),
        ("currency", "DOLLAR"),
        ("timezone", "Mars/Olympus"),
        ("timezone", "../../etc/passwd"),
        ("timezone", "America"),
        ("timezone", "posix/Europe/Berlin"),
        ("timezone", "right/Europe/Berlin"),
        ("timezone", ""),
        ("subjects", "acme"),
        ("subjects", [""]),
        ("subjects", [1]),
        ("subjects", ["x" * 513]),
        ("subjects", [str(number) for number in range(MAX_SUBJECTS + 1)]),
        ("metadata", {"key": 5}),
        ("metadata", {"k" * 41: "x"}),
        ("metadata", {"k": "x" * 501}),
        ("metadata", []),
        ("metadata", None),
    ],
)
def test_a_bad_value_is_422_at_its_field(api: Api, field: str, value: object) -> None:
    problem = api.post("/v1/customers", {"external_id": "acme", field: value}, status=422)
    assert problem["code"] == "request.invalid_field"
    assert problem["errors"][0]["pointer"].startswith(f"/{field}")


def test_a_customer_has_a_parent_who_pays(api: Api) -> None:
    for name in ("head", "branch", "leaf", "other"):
        api.post("/v1/customers", {"external_id": name, "currency": "EUR" if name == "other" else "USD"})
    branch = api.http.patch("/v1/customers/branch", json={"parent": "head", "has_payment_method": True}).json()
    assert (branch["parent"], branch["has_payment_method"]) == ("head", True)
    assert api.get("/v1/customers/head")["parent"] is None
    assert api.get("/v1/customers")["data"][2]["parent"] == "head"
    for child, parent, code in (
        ("branch", "none", "customer.not_found"),
        ("branch", "branch", "customer.invalid_parent"),
        ("leaf", "branch", "customer.invalid_parent"),
        ("head", "leaf", "customer.invalid_parent"),
        ("leaf", "other", "customer.invalid_parent"),
    ):
        response = api.http.patch(f"/v1/customers/{child}", json={"parent": parent})
        assert (response.status_code, response.json()["code"]) == (422, code), (child, parent)
        assert response.json()["errors"][0]["pointer"] == "/parent"
    assert api.http.patch("/v1/customers/branch", json={"parent": None}).json()["parent"] is None
    assert api.post("/v1/customers", {"external_id": "new", "parent": "head"})["parent"] == "head"
