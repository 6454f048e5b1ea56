"""What a span says of its call, in the spellings of the conventions."""

from __future__ import annotations

import pytest

from console import facts
from tests.fixtures.otlp import Value, span

CASES: dict[str, tuple[dict[str, Value], bool, facts.Facts]] = {
    "a call of the mesh": (
        {"rpc.system.name": "grpc", "server.address": "sync", "rpc.response.status_code": "OK"},
        False,
        facts.Facts("rpc", "sync", False, "OK", False, False),
    ),
    "a caller's mistake is no fault": (
        {"rpc.system.name": "grpc", "server.address": "sync", "rpc.response.status_code": "NOT_FOUND"},
        True,
        facts.Facts("rpc", "sync", False, "NOT_FOUND", False, False),
    ),
    "a server's is one": (
        {"rpc.system": "grpc", "server.address": "sync", "server.port": 80, "rpc.grpc.status_code": 14},
        True,
        facts.Facts("rpc", "sync:80", False, "UNAVAILABLE", True, False),
    ),
    "a client is told that too much is asked": (
        {"rpc.system.name": "grpc", "server.address": "sync", "rpc.response.status_code": "RESOURCE_EXHAUSTED"},
        True,
        facts.Facts("rpc", "sync", False, "RESOURCE_EXHAUSTED", True, False),
    ),
    "a server says so, which makes its span no error": (
        {"rpc.system.name": "grpc", "rpc.response.status_code": "RESOURCE_EXHAUSTED"},
        False,
        facts.Facts("rpc", "", False, "RESOURCE_EXHAUSTED", True, False),
    ),
    "too much is asked by http": (
        {"url.full": "http://there/", "http.response.status_code": 429},
        True,
        facts.Facts("http", "there", False, "429", True, False),
    ),
    "another try of Envoy's": (
        {"upstream_cluster.name": "order", "grpc.status_code": "0", "retry.count": "1", "http.status_code": "200"},
        False,
        facts.Facts("rpc", "order", False, "OK", False, True),
    ),
    "Envoy before an answer": (
        {"upstream_cluster.name": "order", "http.protocol": "HTTP/2", "http.status_code": "0"},
        True,
        facts.Facts("rpc", "order", False, "0", True, False),
    ),
    "Envoy and REST": (
        {"upstream_cluster.name": "order", "http.protocol": "HTTP/1.1", "grpc.status_code": "0"},
        False,
        facts.Facts("http", "order", False, "OK", False, False),
    ),
    "http by its old names": (
        {"http.method": "GET", "http.url": "http://ann:secret@127.0.0.1:22229/v2/Users?x=1", "http.status_code": 200},
        False,
        facts.Facts("http", "127.0.0.1:22229", False, "200", False, False),
    ),
    "http refused": (
        {"url.full": "http://there/", "http.response.status_code": 404},
        True,
        facts.Facts("http", "there", False, "404", False, False),
    ),
    "http broken": (
        {"url.full": "http://there/", "http.response.status_code": 503},
        True,
        facts.Facts("http", "there", False, "503", True, False),
    ),
    "an address that is none": ({"http.url": "http://[::1"}, True, facts.Facts("http", "", False, "", True, False)),
    "sql": (
        {"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "/tmp/x"},
        True,
        facts.Facts("sql", "postgresql/shop", True, "", True, False),
    ),
    "redis by its old name": ({"db.system": "redis"}, False, facts.Facts("redis", "redis", True, "", False, False)),
    "an event": ({"messaging.system": "kafka"}, False, facts.Facts("event", "kafka", True, "", False, False)),
    "nothing": ({}, True, facts.Facts("", "", False, "", True, False)),
    "a code beyond all": ({"grpc.status_code": "99"}, True, facts.Facts("rpc", "", False, "99", True, False)),
    "values of odd kinds": (
        {"server.address": ["a"], "db.system": 4.5},
        False,
        facts.Facts("", "", False, "", False, False),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_facts(case: tuple[dict[str, Value], bool, facts.Facts]) -> None:
    attributes, error, wanted = case
    assert facts.read(span(1, 1, attributes=attributes), error=error) == wanted
