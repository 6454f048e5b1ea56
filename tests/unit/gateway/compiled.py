"""Contracts for tests, from real .proto files."""

from __future__ import annotations

import importlib.resources
import tempfile
from pathlib import Path

import google
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from gateway.descriptors import Merged, installed, merge
from mesh.contract import Contract

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


def compiled(name: str, service: str) -> Contract:
    """The contract of a service in a .proto file of this folder, with comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        builtin = str(importlib.resources.files("grpc_tools") / "_proto")
        includes = (HERE, ROOT / "protos", Path(next(iter(google.__path__))).parent, builtin)
        options = ["--include_imports", "--include_source_info", f"-o{out}"]
        command = ["protoc", *(f"-I{path}" for path in includes), *options, name]
        assert protoc.main(command) == 0  # type: ignore[no-untyped-call]
        return Contract.of([service], FileDescriptorSet.FromString(out.read_bytes()).file)


def merged(**contracts: Contract) -> Merged:
    """These contracts in force; none may have a problem."""
    made = merge(contracts, Merged(), installed)
    assert not made.problems
    return made


def reference_services() -> Merged:
    """The services that come with the project."""
    files = FileDescriptorSet.FromString((ROOT / "gen" / "descriptors.binpb").read_bytes()).file
    names = ("order", "status", "sync")
    return merged(**{n: Contract.of([f"meshwright.{n}.v1.{n.title()}Service"], files) for n in names})
