"""The API's description holds for a whole stack: real answers of every kind are held against it."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.e2e.conftest import Stack

NOBODY = "4b3dfdb6-85b2-4107-b331-862ffca1503b"


@pytest.fixture(scope="module")
def document(stack: Stack) -> dict[str, Any]:
    """The description that the gateway serves."""
    found: dict[str, Any] = stack.curl("/openapi.json")
    return found


def ask(stack: Stack, document: dict[str, Any], path: str, body: object = None) -> Any:
    """Ask, hold the answer against what the description says of its status, and give it back."""
    words = ("-X", "POST", "-d", json.dumps(body)) if body is not None else ()
    text, _, status = stack.curl_text(path, "-w", "\n%{http_code}", *words).rpartition("\n")
    operation = document["paths"][template(document, path)]["get" if body is None else "post"]
    judge(document, operation["responses"][status], json.loads(text))
    return json.loads(text)


def template(document: dict[str, Any], path: str) -> str:
    """The described path that a path is one of; literal ones before those with variables."""
    plain = path.partition("?")[0]
    paths: list[str] = sorted(document["paths"], key=lambda one: "{" in one)
    return next(one for one in paths if re.fullmatch(re.sub(r"\\{[^}]*\\}", "[^/:]+", re.escape(one)), plain))


def judge(document: dict[str, Any], response: dict[str, Any], body: object) -> None:
    if reference := response.get("$ref"):
        response = document["components"]["responses"][reference.rpartition("/")[2]]
    (schema,) = {json.dumps(content["schema"]) for content in response["content"].values()}
    whole = {**json.loads(schema), "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(body)


def test_it_is_valid_and_knows_every_service(document: dict[str, Any]) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert {tag["name"] for tag in document["tags"]} == {"OrderService", "StatusService", "SyncService"}
    assert all(o.get("summary") for path in document["paths"].values() for o in path.values())


def test_answers_are_as_described(stack: Stack, document: dict[str, Any]) -> None:
    run = ask(stack, document, "/v1/syncs", {"requestId": str(uuid.uuid4())})
    watched = document["paths"]["/v1/syncs/{id}:watch"]["get"]["responses"]["200"]
    events = stack.curl_text(f"/v1/syncs/{run['id']}:watch", "-N", "-H", "Accept: application/x-ndjson").splitlines()
    assert events
    for line in events:
        judge(document, watched, json.loads(line))
    user = ask(stack, document, "/v1/users?pageSize=3")["users"][0]["id"]
    price = {"currencyCode": "EUR", "units": "12", "nanos": 500000000}
    lines = [{"sku": "A-1", "quantity": 2, "unitPrice": price}]
    order = ask(stack, document, "/v1/orders", {"requestId": str(uuid.uuid4()), "customerId": user, "lines": lines})
    for path in (
        f"/v1/users/{user}", f"/v1/syncs/{run['id']}", "/v1/syncs?page_size=2", f"/v1/orders/{order['id']}",
        "/v1/orders?pageSize=2&state=STATE_PENDING", "/v1/status", "/v1/services",
    ):  # fmt: skip
        ask(stack, document, path)


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (f"/v1/orders/{NOBODY}", None, "ORDER_NOT_FOUND"),
        ("/v1/orders/nonsense", None, "INVALID_FIELD"),
        ("/v1/orders?nonsense=1", None, "MALFORMED_REQUEST"),
        ("/v1/orders", {"requestId": NOBODY}, "INVALID_FIELD"),
        (f"/v1/syncs/{NOBODY}:cancel", {}, "SYNC_NOT_FOUND"),
        ("/v1/syncs", {"requestId": NOBODY, "provider": "nobody"}, "PROVIDER_NOT_FOUND"),
    ],
)
def test_errors_are_as_described(stack: Stack, document: dict[str, Any], path: str, body: object, reason: str) -> None:
    error = ask(stack, document, path, body)
    assert [detail["reason"] for detail in error["details"] if "reason" in detail] == [reason]


def test_nothing_that_the_description_forbids_is_in_an_answer(document: dict[str, Any]) -> None:
    """The judge can say no."""
    response = document["paths"]["/v1/orders/{id}"]["get"]["responses"]["200"]
    with pytest.raises(Exception, match="is not of type 'string'"):
        judge(document, response, {"id": 7})
    with pytest.raises(Exception, match="is not a 'uuid'"):
        judge(document, response, {"id": "seven"})
