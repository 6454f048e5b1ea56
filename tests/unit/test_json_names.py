"""The names of fields in JSON are those that protoc gives."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from mesh.json_names import json_name


@pytest.mark.parametrize("name", ["a", "unit_price", "_a", "a_", "a__b_1c", "A_b", "x1_y2", "camelCase_too"])
def test_it_is_the_name_that_protobuf_gives(name: str) -> None:
    file = FileDescriptorProto(name="a.proto")
    file.message_type.add(name="M").field.add(name=name, number=1, type=3, label=1)
    pool = DescriptorPool()
    pool.Add(file)
    assert json_name(name) == pool.FindMessageTypeByName("M").fields_by_name[name].json_name
