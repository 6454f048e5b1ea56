"""What Envoy refused is told once, by what denies it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.denials import refused, since, tell
from tests.fixtures.shop import until

if TYPE_CHECKING:
    import pytest

PAGE = """\
# TYPE envoy_http_rbac_policy_denied counter
envoy_http_rbac_policy_denied{envoy_rbac_policy_name="by:gateway=>order#2",envoy_rbac_http_prefix="intentions"} 3
envoy_http_rbac_policy_denied{envoy_rbac_policy_name="by:default:gateway=>sync",envoy_rbac_http_prefix="intentions"} 1
"""


def test_refusals_are_counted_by_what_denies_them() -> None:
    assert refused(PAGE) == {"gateway=>order#2": 3, "default:gateway=>sync": 1}


def test_only_what_is_new_is_told_also_of_an_envoy_that_was_started_again() -> None:
    assert [*since({"a": 3, "b": 2, "c": 5}, {"a": 3, "b": 4, "c": 1, "d": 1})] == [("b", 2), ("c", 1), ("d", 1)]


async def test_an_answer_that_does_not_come_makes_nothing_new(
    short_tmp: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Envoy says 3 of the one; says nothing; says the same; and then that there was one more."""
    more = PAGE.replace("} 3", "} 4")
    socket, pages = short_tmp / "admin.sock", [PAGE, "", PAGE, more]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        page = pages.pop(0) if pages else more
        writer.write(f"HTTP/1.0 200 OK\r\n\r\n{page}".encode() if page else b"")
        writer.close()

    async def told() -> bool:
        return bool(caplog.messages)

    with caplog.at_level(logging.WARNING, "gateway.denials"):
        async with await asyncio.start_unix_server(answer, socket), asyncio.timeout(20):
            telling = asyncio.create_task(tell(socket, lambda: True, every_seconds=0.01))
            await until(told)
            telling.cancel()
    assert caplog.messages == ["1 of the gateway's calls were refused at the gateway: denied by gateway=>order#2"]
