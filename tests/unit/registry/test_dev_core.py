"""What the built-in registry keeps on disk when those who write go away in the middle of it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mesh.registry.dev.core import Core
from mesh.registry.dev.disk import Disk
from mesh.registry.dev.shapes import Node

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class SlowDisk(Disk):
    """A real one whose first write takes until `go` is set, or for as long as no second one comes along."""

    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    log: list[str] = field(default_factory=list)

    def write(self, part: str, name: str, content: Mapping[str, Any] | None) -> None:
        self.log.append(f"begin {name}")
        if self.begun.is_set():
            self.go.set()
        self.begun.set()
        self.go.wait(0.5)
        super().write(part, name, content)
        self.log.append(f"end {name}")


async def test_a_write_whose_writer_is_gone_ends_before_the_next_begins(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    async with asyncio.timeout(20), core(disk) as registry:
        registry.values.put("key", b"first", flags=0, cas=None)
        first = asyncio.ensure_future(registry.keep_value("key"))
        await asyncio.to_thread(disk.begun.wait)
        await gone(first)
        registry.values.put("key", b"second", flags=0, cas=None)
        await registry.keep_value("key")
    assert disk.log == ["begin key", "end key", "begin key", "end key"]
    assert [entry.value for entry in disk.kv()] == [b"second"]


async def test_a_write_whose_writer_is_gone_before_its_turn_reaches_the_disk(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    async with asyncio.timeout(20), core(disk) as registry:
        for key in ("a", "b"):
            registry.values.put(key, b"x", flags=0, cas=None)
        first, second = (asyncio.ensure_future(registry.keep_value(key)) for key in ("a", "b"))
        await asyncio.to_thread(disk.begun.wait)
        await gone(second)
        disk.go.set()
        await first
    assert {entry.key for entry in disk.kv()} == {"a", "b"}


async def test_a_disk_that_cannot_be_written_is_told_to_its_writer_alone(tmp_path: Path) -> None:
    async with core(Disk(tmp_path)) as registry:
        (tmp_path / "kv").rmdir()
        registry.values.put("key", b"x", flags=0, cas=None)
        with pytest.raises(FileNotFoundError):
            await registry.keep_value("key")
        (tmp_path / "kv").mkdir()
        await registry.keep_value("key")


def core(disk: Disk) -> Core:
    """A registry on an empty disk."""
    disk.prepare()
    return Core(disk, lambda index: Node(name="here", address="127.0.0.1", port=8500, index=index), first_index=1)


async def gone(writing: asyncio.Future[None]) -> None:
    """Cancel, as aiohttp does when a client disconnects."""
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
