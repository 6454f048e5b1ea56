"""What every service's process does before and around its own work."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, TypeVar

from mesh import Error, InvalidConfig
from mesh.scope import first_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

S = TypeVar("S")


def run(
    environ: MutableMapping[str, str],
    parse: Callable[[MutableMapping[str, str]], S],
    serve: Callable[[S], Awaitable[None]],
) -> int:
    """Parse the settings and serve; the exit code.

    2 for settings that cannot work, each problem on a line; 1 for an `Error` that ends the process, on a line as well.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    try:
        settings = parse(environ)
    except InvalidConfig as error:
        print(error.message, file=sys.stderr)
        return 2
    code = 0
    try:
        asyncio.run(_awaited(serve(settings)))
    except* Error as errors:
        code = 1
        print(first_error(errors), file=sys.stderr)
    return code


async def _awaited(work: Awaitable[None]) -> None:
    await work
