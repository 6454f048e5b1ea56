"""`python -m console`: the OTLP sink and the query API in one process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from console.kept import Kept
from console.mesh_view import MeshView
from console.server import serve
from console.settings import Settings
from console.store import Store
from mesh.config import Watch
from mesh.errors import Error
from mesh.metrics_page import of_process
from mesh.paths import Paths
from mesh.registry import RegistrySettings, connect
from mesh.signals import stopping
from mesh.watchdog import watched

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after a clean stop, 1 if it cannot start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.from_mapping(
            os.environ,
            host=options.host,
            otlp_grpc_port=options.otlp_grpc_port,
            otlp_http_port=options.otlp_http_port,
            query_port=options.port,
        )
        paths = Paths.locate(os.environ, options.dir)
        registry = RegistrySettings.from_env(os.environ) if os.environ.get("CONSUL_HTTP_ADDR", "").strip() else None
        asyncio.run(watched(Watch.of(os.environ, "console"), _run(settings, paths, registry)))
    except Error as error:
        print(f"console: {error.message}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m console",
        description="Takes spans by OTLP, shows what they say of the mesh, and answers Jaeger's query API.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="IP address to listen on [127.0.0.1]")
    parser.add_argument("--dir", type=Path, help="state folder of the stack that is shown [MESH_DIR, else .mesh]")
    parser.add_argument("--otlp-grpc-port", type=int, default=4317, help="OTLP/gRPC; 0 chooses a free one [4317]")
    parser.add_argument("--otlp-http-port", type=int, default=4318, help="OTLP/HTTP; 0 chooses a free one [4318]")
    parser.add_argument("--port", type=int, help="query API and pages; 0 chooses a free one [PORT, else 16686]")
    return parser


async def _run(settings: Settings, paths: Paths, registry: RegistrySettings | None) -> None:
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stopping())
        stack.enter_context(of_process("console", os.environ))
        view = MeshView(paths, await stack.enter_async_context(connect(registry)) if registry else None)
        store = Store(settings.limits)
        REGISTRY.register(Kept(store.counts))
        addresses = await stack.enter_async_context(serve(settings, store, view))
        print(
            f"OTLP/gRPC on {addresses.otlp_grpc}, OTLP/HTTP on {addresses.otlp_http}, "
            f"console on {addresses.query}/console/{f'?token={settings.token}' if settings.token else ''}",
            file=sys.stderr,
            flush=True,
        )
        gc.freeze()
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
