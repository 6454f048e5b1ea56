"""Unix sockets that pass from one process to the next without a moment at which nobody listens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def taking_over(socket: Path) -> Iterator[Path]:
    """A path to listen on; when the block ends well, the listener is at `socket`, whoever was there before.

    A process that was there goes on with the connections that it has, and cannot remove the socket any more: it knows
    only the path that it got here. That path is longer than `socket` by eight bytes at most.
    """
    draft = socket.with_name(f"{socket.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    yield draft
    draft.chmod(0o600)
    draft.replace(socket)
