"""Contracts at a real edge: files that share a name, and versions and strangers that come and go by real sidecars."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from mesh.contract import Contract
from tests.fixtures.consul import RegistryProcess, dev_process, running
from tests.fixtures.shop import host
from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.probe import contract

GRPCURL = str(Path(sys.executable).parent / "grpcurl")
GOOGLE = [file for file in contract().files if file.name.startswith("google/")]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """One for this file: sidecars that stop leave their instances to the TTL."""
    yield from running(dev_process(tmp_path_factory.mktemp("registry")))


@pytest.fixture(scope="module")
def edge(registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge in front of nothing."""
    made = Edge(tmp_path_factory.mktemp("edge"), registry.address)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def common(*messages: str) -> FileDescriptorProto:
    """A file that two teams have, each as it was when they copied it."""
    file = FileDescriptorProto(name="common.proto", package="common.v1", syntax="proto3")
    for name in messages:
        add_field(file.message_type.add(name=name), "text", Field.TYPE_STRING)
    return file


def team(package: str, path: str, **fields: str) -> FileDescriptorProto:
    """`service.proto`, as every team calls it: a service with one method, whose answer has these fields."""
    file = FileDescriptorProto(
        name="service.proto", package=package, syntax="proto3",
        dependency=["google/api/annotations.proto", *(["common.proto"] if fields else [])],
    )  # fmt: skip
    answer = file.message_type.add(name="Answer")
    for name, type_name in fields.items():
        add_field(answer, name, Field.TYPE_MESSAGE).type_name = type_name
    method = file.service.add(name="Team").method.add(
        name="Get", input_type=f".{package}.Answer", output_type=f".{package}.Answer"
    )
    method.options.Extensions[annotations_pb2.http].get = path
    return file


def add_field(message: Any, name: str, kind: Any) -> Any:
    return message.field.add(name=name, number=len(message.field) + 1, type=kind, label=Field.LABEL_OPTIONAL)


@contextlib.contextmanager
def serving(service: str, answer: bytes) -> Iterator[int]:
    """A gRPC server whose only method has one answer; its port."""
    method: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Get": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def grpcurl(*arguments: str) -> str:
    return subprocess.run([GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, timeout=30).stdout


def file_by_name(edge: Edge, name: str) -> FileDescriptorProto:
    """What reflection hands out for a name."""
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        asked = iter([ServerReflectionRequest(file_by_filename=name)])
        (answer,) = ServerReflectionStub(channel).ServerReflectionInfo(asked, timeout=20)  # type: ignore[no-untyped-call]
    return FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])


def test_two_services_whose_files_share_their_names_are_both_at_the_edge(edge: Edge) -> None:
    text = b"\x0a\x02hi"
    label, extra = b"\x0a\x04" + text, b"\x12\x04" + text
    red = Contract.of(["red.Team"], [*GOOGLE, common("Label"), team("red", "/red", label=".common.v1.Label")])
    blue_fields = {"label": ".common.v1.Label", "extra": ".common.v1.Extra"}
    blue = Contract.of(["blue.Team"], [*GOOGLE, common("Label", "Extra"), team("blue", "/blue", **blue_fields)])
    with serving("red.Team", label) as red_port, serving("blue.Team", label + extra) as blue_port:
        edge.join("one", "one-1", red_port, red)
        eventually(lambda: edge.get("/red").status == 200, "the first is there", edge.logs)
        edge.join("two", "two-1", blue_port, blue)
        eventually(lambda: edge.get("/blue").status == 200, "the second is there", edge.logs)
        assert edge.get("/red").json == {"label": {"text": "hi"}}
        assert edge.get("/blue").json == {"label": {"text": "hi"}, "extra": {"text": "hi"}}
        address = f"127.0.0.1:{edge.port}"
        assert {"red.Team", "blue.Team"} <= set(grpcurl(address, "list").split())
        assert grpcurl(address, "blue.Team/Get").split().count('"hi"') == 2
        assert "common.v1.Extra extra = 2" in grpcurl(address, "describe", "blue.Answer")
    assert file_by_name(edge, "service.proto").package == "red"
    assert file_by_name(edge, "two/service.proto").dependency[1] == "two/common.proto"
    assert list(file_by_name(edge, "two/common.proto").dependency) == ["common.proto"]


async def test_a_rest_api_survives_a_wrong_name_and_is_back_when_the_only_instance_with_another_leaves(
    edge: Edge, short_tmp: Path, service: str
) -> None:
    async def empty(context: Any) -> bytes:
        return b""

    def descriptors(package: str, path: str) -> bytes:
        return FileDescriptorSet(file=[*GOOGLE, team(package, path)]).SerializeToString()

    async def answers(path: str, status: int) -> None:
        what = f"{path} is {status}"
        await asyncio.to_thread(eventually, lambda: edge.get(path).status == status, what, edge.logs)

    # The shops serve another gRPC service than they describe: 501 says that the path is known and leads to them.
    old, new = f"/{service}/old", f"/{service}/new"
    async with host(short_tmp, edge.registry.address, mtls=False) as mesh_host:
        await mesh_host.shop(service, empty, descriptors=descriptors(service.replace("-", "_"), old))
        await answers(old, 501)
        newer = await mesh_host.shop(service, empty, descriptors=descriptors(service.replace("-", "_"), new))
        await answers(new, 501)
        await answers(old, 404)
        stranger = await mesh_host.shop(service, empty, descriptors=descriptors("hello", "/hello"))
        assert "offers hello.Team" in stranger.reason
        await answers(new, 501)
        await newer.leave()
        await answers(old, 501)
        await answers("/hello", 404)
