"""The contracts keep the conventions that tools cannot check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2, field_behavior_pb2, field_info_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

from meshwright.order.v1 import order_service_pb2
from meshwright.status.v1 import status_service_pb2
from meshwright.sync.v1 import sync_service_pb2
from protos.generate import GEN, PROTOS, differences

PUBLIC = {
    "order": order_service_pb2.DESCRIPTOR, "status": status_service_pb2.DESCRIPTOR, "sync": sync_service_pb2.DESCRIPTOR,
}  # fmt: skip


def _methods() -> Iterator[MethodDescriptor]:
    for file in PUBLIC.values():
        for service in file.services_by_name.values():
            yield from service.methods


METHODS = list(_methods())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_has_a_path_and_says_whether_it_may_be_repeated(method: MethodDescriptor) -> None:
    options = method.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    assert options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    if method.client_streaming:
        assert not rule.ListFields(), "HTTP has no stream of requests"
        return
    assert rule.get or rule.post
    reads = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    assert reads == bool(rule.get), "what reads is a GET"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_ids_are_uuids_and_request_ids_are_required(method: MethodDescriptor) -> None:
    for field in method.input_type.fields:
        if field.name in ("id", "request_id", "customer_id"):
            options = field.GetOptions()
            assert options.Extensions[field_info_pb2.field_info].format == field_info_pb2.FieldInfo.UUID4
            required = field_behavior_pb2.REQUIRED in options.Extensions[field_behavior_pb2.field_behavior]
            assert required == (not method.name.startswith("List"))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_service_config_names_every_method_once_and_retries_only_what_may_be_repeated(name: str) -> None:
    config = json.loads((PROTOS / "meshwright" / name / "v1" / f"{name}_grpc_service_config.json").read_text())
    (service,) = PUBLIC[name].services_by_name.values()
    named = [entry for part in config["methodConfig"] for entry in part["name"]]
    assert {entry["service"] for entry in named} == {service.full_name}
    assert sorted(entry["method"] for entry in named) == sorted(method.name for method in service.methods)
    for part in config["methodConfig"]:
        for entry in part["name"] if "retryPolicy" in part else ():
            level = service.methods_by_name[entry["method"]].GetOptions().idempotency_level
            assert level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def test_descriptors_are_whole_and_carry_comments() -> None:
    files = FileDescriptorSet.FromString((GEN / "descriptors.binpb").read_bytes()).file
    names = {file.name for file in files}
    assert all(dependency in names for file in files for dependency in file.dependency)
    order = next(file for file in files if file.name == "meshwright/order/v1/order_service.proto")
    assert any("takes orders exactly once" in place.leading_comments for place in order.source_code_info.location)


def test_stale_missing_and_left_over_files_are_named(tmp_path: Path) -> None:
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    for folder, content in ((fresh, {"a": "1", "b": "1"}), (committed, {"b": "2", "c": "1"})):
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    assert list(differences(fresh, committed)) == ["missing: gen/a", "stale: gen/b", "left over: gen/c"]
    assert list(differences(fresh, fresh)) == []
