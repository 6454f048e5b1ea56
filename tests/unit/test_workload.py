"""What a program is taken to offer when only its descriptors say so."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.contract import services_in


def test_services_of_imported_files_are_not_its_own() -> None:
    base = FileDescriptorProto(name="base.proto", package="base.v1")
    base.service.add(name="Base")
    shop = FileDescriptorProto(name="shop.proto", package="shop.v1", dependency=["base.proto"])
    shop.service.add(name="Shop")
    assert services_in([base, shop]) == ("shop.v1.Shop",)
