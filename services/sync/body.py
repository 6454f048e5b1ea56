"""Reads the body of an answer without ever holding more of it than a limit, packed or not."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class Chunks(Protocol):
    """A body as it comes, such as `aiohttp.StreamReader`."""

    def iter_any(self) -> AsyncIterator[bytes]:
        """Piece by piece."""


async def read(body: Chunks, encoding: str, limit: int) -> bytes:
    """The whole body, unpacked. ValueError when it is longer than `limit` bytes, is cut off, or cannot be unpacked."""
    if encoding.lower() in ("", "identity"):
        return await _plain(body, limit)
    if encoding.lower() in ("gzip", "x-gzip", "deflate"):
        return await _packed(body, limit)
    raise ValueError(f"the answer is packed as {encoding[:40]!r}, which was not asked for")


async def _plain(body: Chunks, limit: int) -> bytes:
    held = bytearray()
    async for chunk in body.iter_any():
        held += chunk
        _check(held, limit)
    return bytes(held)


async def _packed(body: Chunks, limit: int) -> bytes:
    unpack, held = zlib.decompressobj(_GZIP_OR_ZLIB), bytearray()
    try:
        async for chunk in body.iter_any():
            # One byte more than may be held tells that there is more, however much a small chunk unpacks to.
            held += unpack.decompress(chunk, limit + 1 - len(held))
            _check(held, limit)
    except zlib.error as error:
        raise ValueError(f"the answer cannot be unpacked: {error}") from error
    if not unpack.eof:
        raise ValueError("the answer is cut off")
    return bytes(held)


def _check(held: bytearray, limit: int) -> None:
    if len(held) > limit:
        raise ValueError(f"the answer is longer than {limit} bytes")
