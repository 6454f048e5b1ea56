"""Path templates: what they match, and which of them Envoy would refuse."""

from __future__ import annotations

import re

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.templates import BadTemplate, Binding, Shape, bindings, parse
from tests.unit.gateway.contracts import contract_of, file_of, google_files


def bound(**paths: str) -> list[Binding]:
    pool = DescriptorPool()
    for file in contract_of("a", **paths).files:
        pool.Add(file)
    return list(bindings(pool.FindServiceByName("a.Api")))


@pytest.mark.parametrize(
    ("template", "shape", "variables"),
    [
        ("/v1/orders", "/v1/orders", ()),
        ("/v1/orders/{id}", "/v1/orders/*", ("id",)),
        ("/v1/orders/{id}:cancel", "/v1/orders/*:cancel", ("id",)),
        ("/v1/orders:batchCreate", "/v1/orders:batchCreate", ()),
        ("/v1/{name=shelves/*/books/*}", "/v1/shelves/*/books/*", ("name",)),
        ("/v1/{path=**}", "/v1/**", ("path",)),
        ("/v1/{a.b}/x/{c}", "/v1/*/x/*", ("a.b", "c")),
    ],
)
def test_templates_have_a_shape_and_variables(template: str, shape: str, variables: tuple[str, ...]) -> None:
    parsed, found = parse(template)
    assert (str(parsed), found) == (shape, variables)


@pytest.mark.parametrize(
    "template", ["", "v1/orders", "/v1//orders", "/v1/", "/v1/{id", "/v1/{}", "/v1/**/x", "/v1/{1a}", "/v1/x:", "/a b"]
)
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(BadTemplate):
        parse(template)


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/orders", "/v1/orders", True),
        ("/v1/orders", "/v1/orders/", True),
        ("/v1/orders", "/v1/orders/a", False),
        ("/v1/orders/{id}", "/v1/orders/a%2Fb", True),
        ("/v1/orders/{id}", "/v1/orders/a/b", False),
        ("/v1/orders/{id}:cancel", "/v1/orders/a:cancel", True),
        ("/v1/orders/{id}:cancel", "/v1/orders/a", False),
        ("/v1.0/{p=**}", "/v1.0/a/b/c", True),
        ("/v1.0/{p=**}", "/v1x0/a", False),
    ],
)
def test_shapes_match_as_regular_expressions(template: str, path: str, matches: bool) -> None:
    assert bool(re.fullmatch(parse(template)[0].regex, path)) is matches


def test_the_more_exact_shape_sorts_first() -> None:
    templates = ("/v1/{p=**}", "/v1/{id}", "/v1/a", "/v1/{id}:go")
    shapes = sorted((parse(template)[0] for template in templates), key=lambda shape: shape.rank)
    assert [str(shape) for shape in shapes] == ["/v1/*:go", "/v1/a", "/v1/*", "/v1/**"]


def test_bindings_name_verb_shape_and_method() -> None:
    (one,) = bound(Get="GET /a/{id}", Silent="")
    assert one == Binding(http_method="GET", shape=Shape(segments=("a", "*")), method="a.Api.Get")


@pytest.mark.parametrize("path", ["/a/{missing}", "/a/{all}", "/a/{self}", "/a/{id.x}", "nowhere"])
def test_bindings_that_envoy_would_refuse_are_refused(path: str) -> None:
    with pytest.raises(BadTemplate):
        bound(Get=f"GET {path}")


@pytest.mark.parametrize(
    ("field", "name"), [("body", "nothing"), ("response_body", "id"), ("response_body", "nothing")]
)
def test_bodies_that_envoy_would_refuse_are_refused(field: str, name: str) -> None:
    file = file_of("a", Get="POST /a")
    setattr(file.service[0].method[0].options.Extensions[annotations_pb2.http], field, name)
    pool = DescriptorPool()
    for one in (*google_files(), file):
        pool.Add(one)
    with pytest.raises(BadTemplate):
        list(bindings(pool.FindServiceByName("a.Api")))


def test_fields_of_messages_may_be_bound() -> None:
    assert [str(one.shape) for one in bound(Get="GET /a/{self.self.id}")] == ["/a/*"]
