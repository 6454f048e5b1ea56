"""What `mesh run` and `mesh.toml` say of a program is refused before it starts, with every fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from mesh.membership import faults
from mesh.run import Membership, host
from tests.fixtures.programs import strange

WHOLE = FileDescriptorSet(file=[strange.described()]).SerializeToString()
PART = FileDescriptorSet(file=[strange.described()])
PART.file[0].dependency.append("google/api/annotations.proto")
UNKNOWN = json.dumps({"methodConfig": [{"name": [{"service": strange.NAME, "method": "Nope"}], "timeout": "1s"}]})


def test_all_that_can_be_said_is_taken() -> None:
    meta = {f"key-{number}": "x" * 512 for number in range(55)} | {"version": "1.2"}
    config = UNKNOWN.replace("Nope", "Get")
    said = Membership(service="web", zone="z1", tags=("a",), meta=meta, descriptors=WHOLE, service_config=config)
    assert list(faults(said)) == []
    assert list(faults(Membership(service="web", protocol="http", http_prefixes=("/web/", "/w")))) == []


@pytest.mark.parametrize(
    ("said", "field", "why"),
    [
        ({"service": "gateway"}, "service", "'gateway' is a part of the mesh"),
        ({"service": "mesh"}, "service", "'mesh' is a part of the mesh"),
        ({"meta": {"a b": "c"}}, "meta", "'a b': a key has up to 128 letters"),
        ({"meta": {"consul-x": "c"}}, "meta", "'consul-x': a key"),
        ({"meta": {"k" * 129: "c"}}, "meta", "a key has up to 128"),
        ({"meta": {"k": "ä" * 257}}, "meta", "'k' has a value longer than 512 bytes"),
        ({"meta": {str(number): "" for number in range(57)}}, "meta", "57 pairs, of which there can be 56"),
        ({"meta": {"zone": "z1"}}, "meta", "'zone' is what the mesh itself sets"),
        ({"meta": {"protocol": "http"}}, "meta", "'protocol' is what the mesh itself sets"),
        ({"zone": "z" * 513}, "zone", "longer than 512 bytes"),
        ({"http_prefixes": ("/web/",)}, "http_prefixes", "'/web/' needs the protocol http"),
        ({"http_prefixes": ("/",), "protocol": "http"}, "http_prefixes", "'/' must be a path below /"),
        ({"http_prefixes": ("web/",), "protocol": "http"}, "http_prefixes", "'web/' must be a path below /"),
        ({"http_prefixes": ("/a b",), "protocol": "http"}, "http_prefixes", "'/a b' must be a path below /"),
        ({"http_prefixes": ("/" + "a" * 512,), "protocol": "http"}, "http_prefixes", "longer than 512 bytes"),
        ({"descriptors": WHOLE, "protocol": "http"}, "descriptors", "of no use with the protocol http"),
        ({"service_config": "{}", "protocol": "http"}, "service_config", "of no use with the protocol http"),
        ({"descriptors": b"garbage"}, "descriptors", "not a serialized FileDescriptorSet; `protoc"),
        ({"descriptors": b"\x12\x00"}, "descriptors", "it describes no service"),
        (
            {"descriptors": PART.SerializeToString()},
            "descriptors",
            "no descriptor for file google/api/annotations.proto; make it with protoc's --include_imports",
        ),
        ({"service_config": "{"}, "service_config", "not JSON: "),
        ({"service_config": '{"methodConfig":[{"name":[{}],"timeout":"x"}]}'}, "service_config", "timeout: 'x'"),
        ({"service_config": UNKNOWN, "descriptors": WHOLE}, "service_config", "has no method Nope"),
    ],
)
def test_what_cannot_work_is_told_with_its_field(said: dict[str, Any], field: str, why: str) -> None:
    ((found, text),) = faults(Membership(**{"service": "web", **said}))
    assert found == field
    assert why in text


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, "10.0.0.5"), ({"MESH_HOST": "0.0.0.0"}, "0.0.0.0"), ({"MESH_HOST": "localhost"}, "127.0.0.1")],
)
def test_a_port_is_looked_for_where_the_program_listens(environ: dict[str, str], expected: str) -> None:
    assert host(Membership(service="web", address="10.0.0.5"), environ) == expected
