"""The API's description and its page, through a real Envoy: what they say, and that they follow the mesh."""

from __future__ import annotations

import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.integration.gateway.harness import Edge
from tests.integration.gateway.test_rest import THINGS


def description(edge: Edge) -> dict[str, Any]:
    found: dict[str, Any] = edge.get("/openapi.json").json
    return found


def test_the_description_is_valid_and_knows_the_service(edge: Edge) -> None:
    found = description(edge)
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []
    assert set(found["paths"]) == {THINGS, f"{THINGS}/{{id}}", f"{THINGS}/{{id}}:cancel", f"{THINGS}/{{id}}:watch"}
    thing = found["components"]["schemas"]["probe.v1.Thing"]["properties"]
    assert thing["metadata"]["description"] == "Request metadata as the service saw it."


def test_one_who_has_it_gets_no_body(edge: Edge) -> None:
    first = edge.get("/openapi.json")
    assert first.headers["cache-control"] == "no-cache"
    again = edge.get("/openapi.json", **{"if-none-match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert edge.get("/openapi.json", **{"if-none-match": '"other"'}).status == 200


def test_it_is_compressed_for_those_who_take_that(edge: Edge) -> None:
    answer = edge.get("/openapi.json", **{"accept-encoding": "gzip"})
    assert json.loads(gzip.decompress(answer.body)) == description(edge)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_leads_to_the_page(edge: Edge, method: str) -> None:
    answer = edge.ask(method, "/")
    assert (answer.status, answer.headers["location"]) == (302, f"http://127.0.0.1:{edge.port}/docs")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/docs", "text/html"),
        ("/docs/docs.js", "text/javascript"),
        ("/docs/docs.css", "text/css"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/favicon-32x32.png", "image/png"),
    ],
)
def test_the_page_and_its_parts_allow_nothing_from_elsewhere(edge: Edge, path: str, content_type: str) -> None:
    answer = edge.get(path)
    assert answer.status == 200
    assert answer.body
    assert answer.headers["content-type"].partition(";")[0] == content_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert edge.get(path, **{"if-none-match": answer.headers["etag"]}).status == 304


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/docs/nope", 404), ("POST", "/docs", 405)])
def test_what_is_not_there_is_refused_in_json(edge: Edge, method: str, path: str, status: int) -> None:
    answer = edge.ask(method, path, "{}")
    assert answer.status == status
    assert "try GET /docs" in answer.json["message"]


# What the description says must be what Envoy does.

QUERIES = {
    "pageSize": ("3", 3),
    "pageToken": ("a b", "a b"),
    "state": ("STATE_READY", "STATE_READY"),
    "since": ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    "within": ("1.5s", "1.500s"),
    "mask": ("note,pageSize", "note,pageSize"),
    "atLeast": ("7", 7),
    "states": ("STATE_READY", ["STATE_READY"]),
    "filter.text": ("x", {"text": "x"}),
    "filter.words": ("y", {"words": ["y"]}),
}


def test_all_query_parameters_are_tried(edge: Edge) -> None:
    described = description(edge)["paths"][THINGS]["get"]["parameters"]
    assert {one["name"] for one in described} == QUERIES.keys()


@pytest.mark.parametrize("name", QUERIES)
def test_each_described_query_parameter_is_taken(edge: Edge, name: str) -> None:
    given, seen = QUERIES[name]
    answer = edge.get(f"{THINGS}?{name}={quote(given)}")
    assert answer.status == 200, answer
    assert json.loads(answer.json["things"][0]["request"])[name.partition(".")[0]] == seen


@pytest.mark.parametrize(
    ("path", "template"), [(f"{THINGS}/a", f"{THINGS}/{{id}}"), (THINGS, THINGS)], ids=["one", "many"]
)
def test_answers_are_as_described(edge: Edge, path: str, template: str) -> None:
    found = description(edge)
    judge(found, found["paths"][template]["get"]["responses"]["200"], edge.get(path).json)


@pytest.mark.parametrize("name", ["missing", "down"])
def test_errors_are_as_described(edge: Edge, name: str) -> None:
    found = description(edge)
    judge(found, found["components"]["responses"]["Error"], edge.get(f"{THINGS}/{name}").json)


def test_refusals_of_the_edge_are_as_described(edge: Edge) -> None:
    found = description(edge)
    for answer in (edge.get("/nope"), edge.get(f"{THINGS}?nope=1"), edge.ask("POST", THINGS, "{")):
        judge(found, found["components"]["responses"]["400"], answer.json)


def judge(document: dict[str, Any], response: dict[str, Any], body: object) -> None:
    """Hold a body against what a response object says."""
    schema = response["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(body)
