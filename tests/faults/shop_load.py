"""`python -m tests.faults.shop_load PORT SERVICE RATE`: load on a shop, through an edge and by `xds:///SERVICE`.

The method is the one that must not be sent again, so that no retry hides what fails. No more than one second of calls
is in hand at one time: it is asked whether a mesh loses a call, not how quick it is.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from tests.faults.load import Call, Path, keep_calling
from tests.fixtures.shop import BUY, xds_credentials

DEADLINE_SECONDS = 30.0
"""So long that a busy machine is none of what is tested."""


def buying(channel: grpc.aio.Channel) -> Call:
    """One call of a method that is not idempotent, with no deadline that matters."""
    buy: Any = channel.unary_unary(BUY)

    async def call() -> str:
        try:
            await buy(b"", timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return ""

    return call


async def main(port: int, service: str, rate: float) -> None:
    """Run until SIGTERM."""
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as edge,
        grpc.aio.secure_channel(f"xds:///{service}", xds_credentials()) as straight,
    ):
        found = {"gateway": buying(edge), "proxyless": buying(straight)}
        paths = [Path(name, call, patience_seconds=DEADLINE_SECONDS, most=rate) for name, call in found.items()]
        await keep_calling(paths, rate)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
