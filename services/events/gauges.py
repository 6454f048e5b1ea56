"""How the groups of consumers do, for Prometheus: asked of Redis now and then, of all groups, whoever asks."""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from mesh.recovery import sleep
from services.events.group import standings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from redis.asyncio import Redis

    from services.events.group import Standing

ASK_SECONDS = 5.0
"""How old what is shown may be."""

_log = logging.getLogger(__name__)


class Groups(Collector):
    """What was found last; nothing while Redis does not answer."""

    def __init__(self) -> None:
        self._found: Sequence[Standing] = ()
        self._url = ""
        REGISTRY.register(self)

    async def follow(self, redis: Redis, url: str = "") -> None:
        """Ask until cancelled. The client must not decode what it reads; `url` is where it asks, for all to see."""
        self._url = url
        while True:
            try:
                self._found = await standings(redis)
            except (RedisError, OSError, TimeoutError) as error:
                _log.debug("how consumers do is not known: %s", error)
                self._found = ()
            await sleep(ASK_SECONDS)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As prometheus_client asks for it, in a thread of its own."""
        waiting = _family("waiting", "Events that no consumer was given yet.")
        pending = _family("pending", "Events that a consumer was given, and is not done with.")
        dead = _family("dead_letters", "Events that were given up.")
        asked = GaugeMetricFamily("mesh_attention", "What somebody has to see to.", labels=("what", "remedy"))
        for one in self._found:
            pending.add_metric((one.name,), one.in_hand)
            dead.add_metric((one.name,), one.dead)
            asked.add_metric((f"dead letters of {one.name}", _remedy(one.name, self._url)), one.dead)
            if one.waiting is not None:
                waiting.add_metric((one.name,), one.waiting)
        yield from (waiting, pending, dead, asked)


def _remedy(name: str, url: str) -> str:
    """For `mesh check`."""
    own = shlex.quote(name)
    command = f"REDIS_URL={shlex.quote(url) if url else '...'} python -m services dead {own}"
    return f"{command}  # says why; then likewise `replay {own}`, or `drop {own} EVENT`"


def _family(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"event_group_{name}", what, labels=("group",))


GROUPS = Groups()
