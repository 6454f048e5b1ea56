"""The contract that one instance offers, and how it becomes the one in force, at once or later."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable

from mesh import contract as contracts
from mesh.contract import Contract
from mesh.errors import Code, Error
from mesh.recovery import Backoff, Failures, sleep
from mesh.registry.model import STRANGER, Health, Instance, Registration, Registry
from mesh.stability import ANNOUNCED

META = "contract"
"""Key of an instance's metadata: the digest of the contract that it offers."""

LOOK_SECONDS = 1.0
"""Between two looks whether the contract in force is still its own; they cost the registry nothing."""

_PATIENCE = Backoff(first_seconds=9.0, limit_seconds=9.0, jitter=1 / 3)
"""For instances that vanished without a word: sidecars register again within 5 s what a registry forgot."""

_AT_ONCE = Backoff(first_seconds=1.0, limit_seconds=1.0)
"""When its last instance left on purpose: one that is just joining is registered by then."""

_SICK = "not serving"
_log = logging.getLogger(__name__)


def digest(data: bytes | None) -> str:
    """What is said of a published contract in the metadata of those who offer it; empty for none."""
    return hashlib.sha256(data).hexdigest()[:16] if data else ""


class Offer:
    """What one instance offers: `join` once, or again when the registry forgot it, and `follow` all the time.

    The last version to join decides, for as long as one of its instances lives. When none does, that of another
    instance comes back: of whichever joined last.
    """

    def __init__(
        self, registration: Registration, registry: Registry, published: Callable[[str], bytes | None]
    ) -> None:
        self.objection = ""
        """Why it is not in force although it joined last; for people."""

        self._registry, self._published = registry, published
        self._service, self._id = registration.service, registration.id
        self._contract, self._data = Contract(), b""

    @property
    def meta(self) -> dict[str, str]:
        """What the instance's metadata says of it."""
        return {META: self.digest, **({STRANGER: "true"} if self.objection else {})}

    @property
    def digest(self) -> str:
        """Of its contract; empty before it joins."""
        return digest(self._data)

    def take(self, contract: Contract) -> None:
        """From now on it offers this."""
        self._contract, self._data = contract, contract.serialize()

    async def join(self, *, again: bool) -> None:
        """Publish the contract if that is its right; to be called before the instance is registered.

        An instance that comes back takes nothing from a newer one. One that offers nothing of what the living
        instances offer is most likely here by a wrong name: theirs stays in force.
        """
        held = await self._registry.get(self._key)
        if held is None or (held != self._data and await self._takes_over(held, again)):
            await self._registry.put(self._key, self._data)

    async def follow(self) -> None:
        """Publish the contract again whenever no living instance has the one in force. Until cancelled.

        Ends when the registry refuses that: such a token costs the service its policy, and is told when it joins.
        """
        failures = Failures()
        while True:
            await sleep(LOOK_SECONDS)
            if not self._data or self._published(self._service) == self._data:
                self.objection = ""
                continue
            try:
                await self._until_settled()
                failures.reset()
            except Error as error:
                _log.debug("the contract of %s: %s", self._id, error)
                if error.code is Code.PERMISSION_DENIED:
                    return
                await failures.wait(_PATIENCE)

    @property
    def _key(self) -> str:
        return contracts.PREFIX + self._service

    async def _takes_over(self, held: bytes, again: bool) -> bool:
        listed = await self._registry.instances(self._service)
        others = [i for i in listed if i.id != self._id and i.meta.get(META) == digest(held)]
        self.objection = self._stranger(held) if any(map(_lives, others)) else ""
        if self.objection:
            _log.warning("%s: %s", self._id, self.objection)
        known = {i.id: i.meta.get(META) for i in listed}
        return not (again or self.objection or known.get(self._id) == self.digest)

    def _stranger(self, held: bytes) -> str:
        """What is to be said of one that offers nothing of what is in force; empty for all others."""
        try:
            theirs = Contract.parse(held).services
        except Error:
            return ""
        if not theirs or set(theirs) & set(self._contract.services):
            return ""
        own = ", ".join(self._contract.services) or "no gRPC service that it tells of"
        return (
            f"is {self._service} the right name? This program offers {own}; the instances of {self._service} that run"
            f" offer {', '.join(theirs)}, and theirs stays the contract for as long as one of them lives,"
            " but part of their calls come here"
        )

    async def _until_settled(self) -> None:
        async for instances in self._registry.watch_instances(self._service):
            if await self._settle(instances):
                return

    async def _settle(self, instances: Iterable[Instance]) -> bool:
        """Put the contract back if that in force is nobody's any more; whether it is in force now."""
        held = await self._held()
        if self._is_orphan(held, instances):
            is_next = _announced(held, instances) and self._joined_last(instances)
            await Failures().wait(_AT_ONCE if is_next else _PATIENCE)
            held, instances = await self._held(), await self._registry.instances(self._service)
        if not self._is_orphan(held, instances):
            return held == self.digest
        await self._registry.put(self._key, self._data)
        _log.warning("the contract of %s is that of %s again: no instance has the one before", self._service, self._id)
        return True

    async def _held(self) -> str:
        return digest(await self._registry.get(self._key))

    def _is_orphan(self, held: str, instances: Iterable[Instance]) -> bool:
        """Whether this instance lives with its contract, and none does with the one in force."""
        living = {i.id: i.meta.get(META) for i in instances if _lives(i)}
        return living.get(self._id) == self.digest and held not in living.values()

    def _joined_last(self, instances: Iterable[Instance]) -> bool:
        """Whether its contract is that of the newest that lives: no stranger and a healthy one, if there is any."""
        return max((i for i in instances if _lives(i) and i.meta.get(META)), key=_rank).meta[META] == self.digest


def _lives(instance: Instance) -> bool:
    """Whether it is there, be it healthy or not; not one that left or was lost."""
    return instance.health is not Health.CRITICAL or instance.output.startswith(_SICK)


def _rank(instance: Instance) -> tuple[bool, bool, str, str]:
    meta, is_healthy = instance.meta, instance.health is not Health.CRITICAL
    return STRANGER not in meta, is_healthy, meta.get("start-time", ""), instance.id


def _announced(held: str, instances: Iterable[Instance]) -> bool:
    """Whether the last one with this contract left on purpose."""
    return any(i.meta.get(META) == held and i.output.startswith(ANNOUNCED) for i in instances)
