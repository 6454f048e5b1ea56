"""What the kernel says of a process. Source: proc(5)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a signal, or a debugger, stopped it."""
    return _state(pid) in ("T", "t")


def waits_for_disk(pid: int) -> bool:
    """Whether it waits for a disk or a network file system, and cannot be interrupted."""
    return _state(pid) == "D"


def how_to_go_on(pid: int) -> str:
    """What people read of one that is stopped."""
    return f"stopped by a signal: `kill -CONT {pid}` lets it go on"


def _state(pid: int) -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
