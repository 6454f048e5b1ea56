"""What a service publishes: only what it needs, the same bytes for the same content."""

from __future__ import annotations

import gzip

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from mesh.contract import MAX_BYTES, Contract, Method
from mesh.errors import Code, Error


def files() -> list[FileDescriptorProto]:
    base = FileDescriptorProto(name="base.proto", package="shop.v1")
    noise = FileDescriptorProto(name="noise.proto", package="noise")
    shop = FileDescriptorProto(name="shop.proto", package="shop.v1", dependency=["base.proto"])
    service = shop.service.add(name="Shop")
    service.method.add(name="Get").options.idempotency_level = MethodOptions.IDEMPOTENT
    service.method.add(name="Feed", client_streaming=True)
    shop.service.add(name="Backdoor").method.add(name="Open")
    return [shop, noise, base]


def test_it_keeps_only_the_files_that_the_services_need_dependencies_first() -> None:
    contract = Contract.of(["shop.v1.Shop", "grpc.health.v1.Health"], files())
    assert contract.services == ("shop.v1.Shop",)
    assert [file.name for file in contract.files] == ["base.proto", "shop.proto"]


def test_its_fields_have_the_names_of_their_json() -> None:
    file = FileDescriptorProto(name="a.proto")
    file.service.add(name="A")
    message = file.message_type.add(name="M")
    message.field.add(name="unit_price")
    message.field.add(name="other", json_name="else")
    message.nested_type.add(name="N").field.add(name="_x_y2_z")
    (filled,) = Contract.of(["A"], [file]).files
    assert [field.json_name for field in filled.message_type[0].field] == ["unitPrice", "else"]
    assert filled.message_type[0].nested_type[0].field[0].json_name == "XY2Z"
    assert not message.field[0].json_name


def test_methods_are_those_of_its_services_only() -> None:
    assert Contract.of(["shop.v1.Shop"], files()).methods == {
        "/shop.v1.Shop/Get": Method(path="/shop.v1.Shop/Get", idempotent=True),
        "/shop.v1.Shop/Feed": Method(path="/shop.v1.Shop/Feed", client_streaming=True),
    }


def test_it_survives_the_registry_and_equal_content_has_equal_bytes() -> None:
    contract = Contract.of(["shop.v1.Shop"], files(), "{}")
    assert Contract.parse(contract.serialize()) == contract
    assert Contract.of(["shop.v1.Shop"], reversed(files()), "{}").serialize() == contract.serialize()


@pytest.mark.parametrize("data", [
    b"", b"\x00", b"plain text", Contract().serialize()[:-4], Contract().serialize() + b"more",
    gzip.compress(bytes(MAX_BYTES + 1), 1),
])
def test_anything_else_is_data_loss(data: bytes) -> None:
    with pytest.raises(Error) as caught:
        Contract.parse(data)
    assert caught.value.code is Code.DATA_LOSS


def test_a_service_without_a_descriptor_is_named() -> None:
    with pytest.raises(Error, match=r"no descriptor for service shop\.v2\.Shop"):
        Contract.of(["shop.v2.Shop"], files())


def test_a_missing_dependency_is_named() -> None:
    with pytest.raises(Error, match=r"no descriptor for file base\.proto"):
        Contract.of(["shop.v1.Shop"], files()[:2])
