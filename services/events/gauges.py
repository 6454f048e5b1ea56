"""How the groups of consumers do, for Prometheus: asked of Redis now and then, of all groups, whoever asks."""

from __future__ import annotations

import logging
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
        REGISTRY.register(self)

    async def follow(self, redis: Redis) -> None:
        """Ask until cancelled. The client must not decode what it reads."""
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
            asked.add_metric((f"dead letters of {one.name}", _remedy(one.name)), one.dead)
            if one.waiting is not None:
                waiting.add_metric((one.name,), one.waiting)
        yield from (waiting, pending, dead, asked)


def _remedy(name: str) -> str:
    """For `mesh check`."""
    return f"python -m services dead {name}  # says why; then `replay {name}`, or `drop {name} EVENT`"


def _family(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"event_group_{name}", what, labels=("group",))


GROUPS = Groups()
