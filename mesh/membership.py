"""What is wrong with what people say of a program, told before it starts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from mesh.contract import Contract, services_in
from mesh.errors import Error
from mesh.intentions import PARTS

if TYPE_CHECKING:
    from mesh.run import Membership

_META_KEY = re.compile(r"(?!consul-)[A-Za-z0-9_-]{1,128}")
_VALUE_BYTES = 512
_PAIRS = 56
"""Consul's limits of metadata, of which the mesh itself keeps eight pairs."""

_OWN = ("zone", "protocol", "http-prefixes", "contract")
_PREFIX = re.compile(r"/[^\s?#]+")


def faults(said: Membership) -> Iterator[tuple[str, str]]:
    """What cannot work or would have no effect: the field, and why."""
    if said.service in PARTS:
        yield "service", f"{said.service!r} is a part of the mesh, which it would prove to be: choose another name"
    yield from _of_meta(said)
    if len(said.zone.encode()) > _VALUE_BYTES:
        yield "zone", f"longer than {_VALUE_BYTES} bytes"
    if said.protocol == "http":
        yield from _of_prefixes(said.http_prefixes)
        yield from ((field, "of no use with the protocol http") for field in _CONTRACT if getattr(said, field))
    else:
        yield from (("http_prefixes", f"{prefix!r} needs the protocol http") for prefix in said.http_prefixes)
        yield from _of_contract(said)


_CONTRACT = ("descriptors", "service_config")


def _of_meta(said: Membership) -> Iterator[tuple[str, str]]:
    if len(said.meta) > _PAIRS:
        yield "meta", f"{len(said.meta)} pairs, of which there can be {_PAIRS}"
    for key, value in said.meta.items():
        if key in _OWN:
            yield "meta", f"{key!r} is what the mesh itself sets"
        elif not _META_KEY.fullmatch(key):
            rule = "a key has up to 128 letters, digits, hyphens and underscores, and does not begin with consul-"
            yield "meta", f"{key!r}: {rule}"
        elif len(value.encode()) > _VALUE_BYTES:
            yield "meta", f"{key!r} has a value longer than {_VALUE_BYTES} bytes"


def _of_prefixes(prefixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for prefix in prefixes:
        if not _PREFIX.fullmatch(prefix):
            yield "http_prefixes", f"{prefix!r} must be a path below /, without blanks, ? and #"
    if len(" ".join(prefixes).encode()) > _VALUE_BYTES:
        yield "http_prefixes", f"all together are longer than {_VALUE_BYTES} bytes"


def _of_contract(said: Membership) -> Iterator[tuple[str, str]]:
    """A service config is held to the descriptors where they are given; reflection comes later."""
    try:
        contract = _described(said.descriptors) if said.descriptors else Contract()
    except (DecodeError, ValueError, Error) as error:
        yield "descriptors", _fault(error)
        contract = Contract()
    if not said.service_config:
        return
    from mesh.policy import compiled

    try:
        compiled(said.service, Contract(contract.services, contract.files, said.service_config))
    except Error as error:
        yield from (("service_config", line.removeprefix("contract: ")) for line in error.message.splitlines())


def _described(data: bytes) -> Contract:
    files = FileDescriptorSet.FromString(data).file
    contract = Contract.of(services_in(files), files)
    if not contract.services:
        raise ValueError("it describes no service")
    return contract


def _fault(error: Exception) -> str:
    if isinstance(error, DecodeError):
        return "not a serialized FileDescriptorSet; `protoc --include_imports --descriptor_set_out=FILE` makes one"
    if isinstance(error, Error):
        return f"{error.message}; make it with protoc's --include_imports"
    return str(error)
