"""`python -m tests.integration.gateway.probe PORT NAME`: a plain grpc.aio server of probe.v1.ProbeService."""

from __future__ import annotations

import asyncio
import importlib.resources
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import google
import grpc
from google.protobuf import any_pb2, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

from mesh.contract import Contract
from mesh.load import REPORT_KEY

SERVICE = "probe.v1.ProbeService"
LOAD = (REPORT_KEY, OrcaLoadReport(application_utilization=0.5, rps_fractional=10).SerializeToString())
"""What a server says of itself to those who balance calls."""

Context = grpc.aio.ServicerContext[Any, Any]


def contract(service_config: str = "") -> Contract:
    """What the probe publishes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "probe.binpb"
        here = Path(__file__).parent
        includes = [str(here), str(Path(next(iter(google.__path__))).parent)]
        builtin = str(importlib.resources.files("grpc_tools") / "_proto")
        arguments = [*(f"-I{path}" for path in (*includes, builtin)), "--include_imports", "--include_source_info"]
        command = ["protoc", *arguments, f"-o{out}", str(here / "probe.proto")]
        if protoc.main(command):  # type: ignore[no-untyped-call]
            raise RuntimeError("probe.proto does not compile")
        files = FileDescriptorSet.FromString(out.read_bytes()).file
    return Contract.of([SERVICE], files, service_config)


class Probe:
    """Answers by what it is asked for: the id of a thing says what happens."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = DescriptorPool()
        for file in contract().files:
            self._pool.Add(file)

    def message(self, name: str) -> Any:
        """Class of a message of probe.proto."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"probe.v1.{name}"))

    def thing(self, context: Context, **fields: Any) -> Any:
        """A thing that shows what the service saw of the call."""
        made = self.message("Thing")(budget_seconds=context.time_remaining() or 0.0, **fields)
        pairs = context.invocation_metadata() or ()
        made.metadata.update({key: value for key, value in pairs if isinstance(value, str)})
        made.metadata["instance"] = self._name
        return made

    async def get(self, request: Any, context: Context) -> Any:
        """The thing; or a failure, or a long wait."""
        match request.id:
            case "missing":
                message = 'thing "missing"\ndoes not exist: é'
                await refuse(context, grpc.StatusCode.NOT_FOUND, "THING_NOT_FOUND", message)
            case "down":
                _say(f"attempt {self._name}")
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "DOWN", "down")
            case "plain":
                await context.abort(grpc.StatusCode.ABORTED, 'no details: "é" 100 %', (LOAD,))
            case name if name.startswith("slow"):
                await self.wait(name)
        await context.send_initial_metadata((("x-began", self._name),))
        context.set_trailing_metadata((("x-ended", self._name), LOAD))
        return self.thing(context, id=request.id, note="x" * 3_000_000 if request.id == "huge" else "")

    async def wait(self, name: str) -> None:
        """Wait for nothing, and tell when the caller goes."""
        try:
            _say(f"{name} began")
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            _say(f"{name} was cancelled")
            raise

    async def list(self, request: Any, context: Context) -> Any:
        """One thing that repeats the request."""
        one = self.thing(
            context, quantity=request.page_size, note=request.page_token, state=request.state,
            request=json_format.MessageToJson(request),
        )  # fmt: skip
        return self.message("ListThingsResponse")(things=[one])

    async def create(self, request: Any, context: Context) -> Any:
        """The thing that was asked for."""
        if request.note == "down":
            _say(f"create {self._name}")
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "DOWN", "down")
        return self.thing(
            context, id=request.request_id, quantity=request.quantity, note=request.note, state=request.state,
            big_number=2**53 + 1,
        )  # fmt: skip

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Two things at once, then the end, a failure, or nothing until the caller goes."""
        if request.id == "missing":
            await refuse(context, grpc.StatusCode.NOT_FOUND, "THING_NOT_FOUND", "no such thing")
        context.set_trailing_metadata((("x-ended", self._name), LOAD))
        try:
            for quantity in (1, 2):
                yield self.thing(context, id=request.id, quantity=quantity)
            if request.id == "forever":
                await asyncio.Event().wait()
            for quantity in itertools.count(3) if request.id == "ticks" else ():
                await asyncio.sleep(0.05)
                yield self.thing(context, id=request.id, quantity=quantity)
        finally:
            _say(f"watch of {request.id} ended")

    async def load(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """How many things came, and how long their notes are together."""
        notes = [len(one.note) async for one in requests]
        return self.thing(context, quantity=len(notes), big_number=sum(notes))

    def handlers(self) -> grpc.GenericRpcHandler:
        """All methods."""

        def one(kind: str, method: Callable[..., Any], request: str, response: str) -> Any:
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            return make(
                method,
                request_deserializer=self.message(request).FromString,
                response_serializer=self.message(response).SerializeToString,
            )

        return grpc.method_handlers_generic_handler(SERVICE, {
            "GetThing": one("unary_unary", self.get, "GetThingRequest", "Thing"),
            "ListThings": one("unary_unary", self.list, "ListThingsRequest", "ListThingsResponse"),
            "CreateThing": one("unary_unary", self.create, "CreateThingRequest", "Thing"),
            "CancelThing": one("unary_unary", self.get, "CancelThingRequest", "Thing"),
            "WatchThing": one("unary_stream", self.watch, "GetThingRequest", "Thing"),
            "ImportThings": one("stream_unary", self.load, "Thing", "Thing"),
        })


async def refuse(context: Context, code: grpc.StatusCode, reason: str, message: str) -> None:
    """Fail as the services of a mesh do, with details."""
    parts = (
        error_details_pb2.ErrorInfo(reason=reason, domain="meshwright", metadata={"thing": "missing"}),
        error_details_pb2.BadRequest(field_violations=[{"field": "id", "description": "unknown"}]),
    )
    status = status_pb2.Status(code=code.value[0], message=message)
    for part in parts:
        packed = any_pb2.Any()
        packed.Pack(part)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, message)


def _say(text: str) -> None:
    print(text, flush=True)


async def main(port: str, name: str) -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((Probe(name).handlers(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    _say("serving")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
