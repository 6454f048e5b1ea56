"""`python -m tests.faults.shop_churn FOLDER REGISTRY SERVICE`: a process whose instances come and go as it is told.

A line on stdin has the name and the version of one that is to join, serve and leave; once it has drained, a
line on stdout has its name and how many calls it answered. Ends with stdin. FOLDER is that of a sidecar with
identities, and REGISTRY the address of its registry.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool as pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import mesh
from mesh.registry.model import MUTUAL_TLS, TLS_META
from meshwright.sidecar.v1 import sidecar_service_pb2 as pb
from tests.e2e.conftest import ROOT
from tests.fixtures.echo import unary_unary
from tests.fixtures.shop import BUY, Host, Joined, beside, joined, shop_descriptors, sidecar_settings

DRAIN_SECONDS = 30.0


class Churn:
    """Such a process, for those who tell it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[str, asyncio.Future[int]] = {}

    async def come_and_go(self, name: str, version: int) -> int:
        """One instance, from its start to its end; the calls it answered."""
        assert self._process.stdin is not None
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answered
        self._process.stdin.write(f"{name} {version}\n".encode())
        return await answered

    async def read(self) -> None:
        """Follow what it tells until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            name, calls = line.split()
            answered = self._waiting.pop(name.decode())
            if not answered.done():
                answered.set_result(int(calls))
        for lost in self._waiting.values():
            if not lost.done():
                lost.set_exception(AssertionError("the process of this instance ended"))


@asynccontextmanager
async def churning(host: Host, service: str) -> AsyncIterator[Churn]:
    """One beside the sidecar of a host, for as long as the context is open."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.shop_churn", str(host.socket.parent), host.registry.address, service,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        churn = Churn(process)
        reading = asyncio.ensure_future(churn.read())
        yield churn
        reading.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _come_and_go(host: Host, service: str, name: str, version: str) -> None:
    """As programs of the mesh do: it joins, serves, leaves and drains."""
    calls = 0

    async def answer(request: bytes, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        return b""

    async with mesh.server(host.settings(service, host="127.0.0.1", grace_seconds=DRAIN_SECONDS)) as server:
        shop, _, method = BUY.strip("/").partition("/")
        server.add_registered_method_handlers(shop, {method: unary_unary(answer)})
        await server.start()
        meta = {"version": version, TLS_META: MUTUAL_TLS}
        workload = pb.Workload(service=service, id=name, address="127.0.0.1", port=server.port, meta=meta)
        stream = Joined(name, await joined(host, workload))
        await stream.leave()
    stream.call.cancel()
    print(name, calls, flush=True)


async def main(folder: Path, registry: str, service: str) -> None:
    """Until stdin ends."""
    pool.Default().AddSerializedFile(FileDescriptorSet.FromString(shop_descriptors()).file[0].SerializeToString())
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    async with beside(sidecar_settings(folder, registry)) as host, asyncio.TaskGroup() as group:
        async for line in told:
            name, version = line.decode().split()
            group.create_task(_come_and_go(host, service, name, version))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
