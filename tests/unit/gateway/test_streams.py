"""Which calls the control process is told of, so that it can end them."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from gateway.streams import narrowed, unary
from mesh.contract import Contract
from mesh.policy import Match

WATCH, SEND = "/shop.v1.Shop/Watch", "/shop.v1.Shop/Send"


def test_methods_that_stream_to_either_end_are_not_unary_and_what_no_file_defines_is_unknown() -> None:
    file = FileDescriptorProto(name="shop.proto", package="shop.v1")
    service = file.service.add(name="Shop")
    for name, streams in {"Get": {}, "Watch": {"server_streaming": True}, "Send": {"client_streaming": True}}.items():
        service.method.add(name=name, **streams)
    assert unary(Contract(("shop.v1.Missing", "shop.v1.Shop"), (file,))) == ("/shop.v1.Shop/Get",)


@pytest.mark.parametrize(
    ("match", "paths"),
    [
        (Match(prefix="/shop.v1.Shop/"), [WATCH, SEND]),
        (Match(path=SEND), [SEND]),
        (Match(path="/shop.v1.Shop/Get"), []),
        (Match(regex=".*/W.*"), [WATCH]),
    ],
)
def test_a_route_is_narrowed_to_the_paths_that_it_takes(match: Match, paths: list[str]) -> None:
    assert [one.path for one in narrowed(match, (WATCH, SEND))] == paths
