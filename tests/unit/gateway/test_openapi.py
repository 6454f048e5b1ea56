"""The OpenAPI document: what becomes of each thing that a contract can say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.descriptors import Merged
from gateway.openapi import openapi
from tests.unit.gateway.compiled import compiled, merged, reference_services
from tests.unit.gateway.contracts import contract_of

Tree = dict[str, Any]
REFERENCE = "#/components/schemas/"


@pytest.fixture(scope="module")
def document() -> Tree:
    """The document of everything.proto."""
    return openapi(merged(all=compiled("everything.proto", "all.v1.Everything")))


@pytest.fixture(scope="module")
def kinds(document: Tree) -> Tree:
    """Schemas of the fields of its message Kinds."""
    found: Tree = document["components"]["schemas"]["all.v1.Kinds"]["properties"]
    return found


def operation(document: Tree, name: str) -> Tree:
    """The operation with this id."""
    (found,) = (o for path in document["paths"].values() for o in path.values() if o["operationId"] == name)
    return dict(found)


def parameters(document: Tree, name: str, place: str) -> dict[str, Tree]:
    found = operation(document, name).get("parameters", ())
    return {one["name"]: one for one in found if one["in"] == place}


def body(document: Tree, name: str) -> Tree:
    found: Tree = operation(document, name)["requestBody"]["content"]["application/json"]["schema"]
    return found


def documents() -> Iterator[tuple[str, Merged]]:
    yield "nothing", Merged()
    yield "everything", merged(all=compiled("everything.proto", "all.v1.Everything"))
    yield "the reference services", reference_services()
    yield "two of one name", merged(a=contract_of("a"), b=contract_of("b"))


@pytest.mark.parametrize("made", [m for _, m in documents()], ids=[name for name, _ in documents()])
def test_it_is_openapi(made: Merged) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(openapi(made)).iter_errors()] == []


@pytest.mark.parametrize(
    ("field", "schema"),
    [
        ("aDouble", {"type": "number", "format": "double"}),
        ("aFloat", {"type": "number", "format": "float"}),
        ("anInt32", {"type": "integer", "format": "int32"}),
        ("anInt64", {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}),
        ("aUint32", {"type": "integer", "format": "uint32", "minimum": 0}),
        ("aUint64", {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}),
        ("aBool", {"type": "boolean"}),
        ("aString", {"type": "string"}),
        ("aBytes", {"type": "string", "contentEncoding": "base64", "description": "At most 16 bytes."}),
        ("color", {"$ref": REFERENCE + "all.v1.Color", "description": "What it looks like."}),
        ("time", {"type": "string", "format": "date-time"}),
        ("duration", {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$", "examples": ["1.5s"]}),
        ("mask", {"type": "string", "examples": ["displayName,address.city"]}),
        ("struct", {"type": "object", "additionalProperties": True}),
        ("value", {}),
        ("list", {"type": "array", "items": {}}),
        ("empty", {"type": "object"}),
        ("wrapped", {"type": "string"}),
        ("wrappedLong", {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}),
        ("nothing", {"type": "null"}),
        ("price", {"$ref": REFERENCE + "google.type.Money", "description": "The price."}),
        ("byNumber", {
            "type": "object",
            "additionalProperties": {"$ref": REFERENCE + "all.v1.Color"},
            "propertyNames": {"pattern": "^-?[0-9]+$"},
        }),
        ("byTruth", {
            "type": "object",
            "additionalProperties": {"type": "string", "maxLength": 8},
            "propertyNames": {"enum": ["true", "false"]},
            "maxProperties": 2,
        }),
        ("left", {"type": "string", "description": "Excludes `right`."}),
        ("maybe", {"type": "string"}),
        ("other", {"type": "string"}),
        ("code", {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^(?:[A-Z]+)$"}),
        ("folded", {"type": "string", "description": "Matches `(?i)[a-z]+` (RE2)."}),
        ("small", {"type": "integer", "format": "int32", "minimum": -1, "maximum": 9}),
        ("large", {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$", "description": "At least 1."}),
        ("few", {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3}),
        ("made", {"type": "string", "readOnly": True}),
        ("secret", {"type": "string", "writeOnly": True}),
        ("fixed", {"type": "string", "description": "Cannot be changed."}),
        ("needed", {"type": "string", "minLength": 1}),
        ("addresses", {
            "type": "array", "items": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
        }),
    ],
)  # fmt: skip
def test_each_kind_of_field(kinds: Tree, field: str, schema: Tree) -> None:
    assert kinds[field] == schema


def test_any_needs_its_type(kinds: Tree) -> None:
    assert kinds["any"]["required"] == ["@type"]


def test_what_must_be_there_is_required(document: Tree) -> None:
    assert document["components"]["schemas"]["all.v1.Kinds"]["required"] == ["few", "needed"]


def test_at_most_one_of_a_oneof(document: Tree) -> None:
    schema = document["components"]["schemas"]["all.v1.Kinds"]
    only = {"dependentSchemas": schema["dependentSchemas"], "type": "object"}
    judge = Draft202012Validator(only)
    assert judge.is_valid({"left": "x", "maybe": "y"})
    assert judge.is_valid({})
    assert not judge.is_valid({"left": "x", "right": {}})


def test_a_message_that_contains_itself_is_a_reference(document: Tree) -> None:
    node = document["components"]["schemas"]["all.v1.Node"]
    assert node["properties"]["next"] == {"$ref": REFERENCE + "all.v1.Node"}
    assert node["properties"]["children"]["items"] == {"$ref": REFERENCE + "all.v1.Node"}


def test_values_of_an_enum_are_explained(document: Tree) -> None:
    assert document["components"]["schemas"]["all.v1.Color"] == {
        "type": "string",
        "enum": ["COLOR_UNSPECIFIED", "COLOR_RED"],
        "description": "Color of things.\n\n- `COLOR_RED`: Like blood.",
    }


def test_comments_become_descriptions(document: Tree) -> None:
    assert document["tags"] == [
        {"name": "Everything", "description": "Everything shows\nall mappings.\n\nIt has a second paragraph."}
    ]
    get = operation(document, "Everything_Get")
    assert get["summary"] == "Get answers one; NOT_FOUND when there is none, PERMISSION_DENIED for strangers."
    assert "description" not in get


def test_paths_and_verbs(document: Tree) -> None:
    assert {path: list(verbs) for path, verbs in document["paths"].items()} == {
        "/v1/all/{id}": ["delete", "get", "head", "patch"],
        "/v1/all/{id}:watch": ["get"],
        "/v1/all/{order.id}:replace": ["put"],
        "/v1/all:upload": ["post"],
        "/v1/files/{id}": ["get"],
        "/v1/shops/{parent1}/shelves/{parent2}/all/{id}": ["get"],
    }


def test_the_variables_of_one_path_have_one_name(document: Tree) -> None:
    assert list(parameters(document, "Everything_Update", "path")) == ["id"]
    assert list(parameters(document, "Everything_Remove", "path")) == ["id"]


def test_each_binding_is_an_operation(document: Tree) -> None:
    ids = sorted(o["operationId"] for path in document["paths"].values() for o in path.values())
    assert [name for name in ids if "_Get" in name] == [
        "Everything_Get", "Everything_Get_2", "Everything_Get_3", "Everything_Get_4",
    ]  # fmt: skip
    assert not any("Hidden" in name for name in ids)


def test_a_variable_over_slashes_says_so(document: Tree) -> None:
    assert parameters(document, "Everything_Get_3", "path")["id"]["description"] == "May hold slashes."
    assert "`shops/*/shelves/*`" in parameters(document, "Everything_Get_2", "path")["parent1"]["description"]


def test_what_neither_path_nor_body_takes_is_the_query(document: Tree) -> None:
    query = parameters(document, "Everything_Get", "query")
    assert list(query) == [
        "name", "parent", "order.id", "order.count", "order.address.city", "colors", "updateMask", "since", "atLeast",
        "node.name",
    ]  # fmt: skip
    assert query["colors"]["schema"] == {"type": "array", "items": {"$ref": REFERENCE + "all.v1.Color"}}
    assert query["order.address.city"]["deprecated"] is True
    assert "required" not in query["name"]


def test_a_required_field_is_a_required_parameter(document: Tree) -> None:
    assert parameters(document, "Everything_Update", "query")["id"]["required"] is True


def test_a_field_as_body_comes_without_what_the_path_takes(document: Tree) -> None:
    assert list(body(document, "Everything_Update")["properties"]) == ["count", "address"]
    assert "order.count" not in parameters(document, "Everything_Update", "query")
    assert "updateMask" in parameters(document, "Everything_Update", "query")


def test_everything_as_body_comes_without_what_the_path_takes(document: Tree) -> None:
    schema = body(document, "Everything_Replace")
    assert list(schema["properties"]["order"]["properties"]) == ["count", "address"]
    assert schema["required"] == ["id"]
    assert operation(document, "Everything_Replace")["requestBody"]["required"] is True
    assert not parameters(document, "Everything_Replace", "query")


def test_a_stream_is_events_or_lines(document: Tree) -> None:
    content = operation(document, "Everything_Watch")["responses"]["200"]["content"]
    one = {"schema": {"$ref": REFERENCE + "all.v1.Node"}}
    assert content == {"text/event-stream": one, "application/x-ndjson": one}


def test_raw_bodies_are_of_any_type(document: Tree) -> None:
    upload = operation(document, "Everything_Upload")
    assert upload["requestBody"]["content"] == {"*/*": {}}
    assert upload["responses"]["200"]["content"] == {"*/*": {}}


def test_failures_are_those_of_the_edge_and_those_that_the_comment_names(document: Tree) -> None:
    responses = operation(document, "Everything_Get")["responses"]
    assert list(responses) == ["200", "400", "403", "404", "500", "503", "504", "default"]
    assert list(operation(document, "Everything_Update")["responses"]) == [
        "200", "400", "413", "500", "503", "504", "default",
    ]  # fmt: skip
    assert "`NOT_FOUND`" in document["components"]["responses"]["404"]["description"]


def test_deprecated_methods_are(document: Tree) -> None:
    assert operation(document, "Everything_Remove")["deprecated"] is True
    assert "deprecated" not in operation(document, "Everything_Get")


def test_services_of_one_name_have_tags_and_operations_of_their_own() -> None:
    found = openapi(merged(a=contract_of("a"), b=contract_of("b")))
    assert [tag["name"] for tag in found["tags"]] == ["a.Api", "b.Api"]
    assert operation(found, "a.Api_Get") != operation(found, "b.Api_Get")


def test_equal_contracts_make_equal_documents_in_any_order() -> None:
    a, b = contract_of("a"), contract_of("b")
    assert openapi(merged(one=a, two=b)) == openapi(merged(two=b, one=a))


def test_a_comment_about_nothing_is_passed_over() -> None:
    contract = contract_of("a")
    file: FileDescriptorProto = contract.files[-1]
    for path in ([2], [4, 9], [4, 0, 99, 0], []):
        file.source_code_info.location.add(path=path, leading_comments="out of place")
    assert "out of place" not in str(openapi(merged(a=contract)))
