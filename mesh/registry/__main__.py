"""`python -m mesh.registry --port 8500 --data DIR`: the built-in registry as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from mesh.config import Watch
from mesh.errors import Error
from mesh.metrics_page import of_process
from mesh.registry.dev import DevRegistry, DevSettings
from mesh.scope import Scope
from mesh.signals import stopping
from mesh.watchdog import watched


def _settings(arguments: list[str]) -> DevSettings:
    parser = argparse.ArgumentParser(prog="python -m mesh.registry", description="Built-in registry with Consul's API")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8500, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="folder for KV and config entries")
    given = parser.parse_args(arguments)
    return DevSettings(host=given.host, port=given.port, data=given.data)


async def _until_signal(settings: DevSettings) -> None:
    with stopping() as stop, of_process("registry", os.environ):
        async with DevRegistry(settings) as registry, Scope() as scope:
            scope.start(registry.run())
            await stop.wait()
    logging.getLogger("mesh.registry.dev").info("stopped")


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 after those, 1 when it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = _settings(sys.argv[1:])
        asyncio.run(watched(Watch.of(os.environ, "registry"), _until_signal(settings)))
    except (Error, OSError) as error:
        print(f"error: {getattr(error, 'message', error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
