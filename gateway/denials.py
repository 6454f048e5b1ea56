"""What Envoy refused by intentions, told in the log of its control process: it writes no log of calls unless asked."""

from __future__ import annotations

import asyncio
import http.client
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from gateway import admin
from gateway.refusals import BY_INTENTION
from mesh.recovery import sleep

TELL_SECONDS: Final = 2.0
"""How often, so that many refusals are one line."""

BY: Final = "envoy_rbac_policy_name"
"""Label of Envoy's statistics with what denies."""

PAGE: Final = r"^http\.edge\.rbac\.intentions\.policy\..*\.denied$"

_log = logging.getLogger(__name__)


async def tell(socket: Path, may_be: Callable[[], bool], every_seconds: float = TELL_SECONDS) -> None:
    """Log what was refused, and by which intention, until cancelled. What Envoy tells at first was before, and is not
    told; when it does not answer, what it told last holds.

    `may_be`: whether there is something to refuse; until there is, Envoy is not asked.
    """
    told = await asyncio.to_thread(ask, socket) or {}
    while True:
        await sleep(every_seconds)
        if not may_be() or (found := await asyncio.to_thread(ask, socket)) is None:
            continue
        for by, more in since(told, found):
            _log.warning("%d of the gateway's calls were refused at the gateway: denied by %s", more, by)
        told = found


def ask(socket: Path) -> Mapping[str, int] | None:
    """How many calls Envoy refused so far, by what denies them; None when it does not answer in time."""
    with suppress(OSError, ValueError, http.client.HTTPException):
        return refused(admin.read(socket, f"/stats/prometheus?filter={PAGE}").decode())
    return None


def refused(page: str) -> Mapping[str, int]:
    """The same out of Envoy's page. Pure."""
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples if BY in one.labels]
    return {one.labels[BY].removeprefix(BY_INTENTION): int(one.value) for one in samples}


def since(told: Mapping[str, int], found: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """What came to the counts since; an Envoy that was started again began at nothing."""
    for by, count in sorted(found.items()):
        before = told.get(by, 0)
        if more := count - (before if count >= before else 0):
            yield by, more
