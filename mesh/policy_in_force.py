"""The policy of each service that holds now: made of what was last good in each place while that is invalid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesh.contract import Contract
from mesh.policy import NONE, NOTHING, Entries, Policy, Said, ServiceConfig, consulted, good, made, not_in_force, placed
from mesh.policy.entries import Entry
from mesh.registry.model import EMPTY

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    """What was made of what."""

    contract: Contract
    config: ServiceConfig
    entries: Entries
    relevant: Mapping[tuple[str, str], Entry]
    said: Said
    policy: Policy


class PoliciesInForce:
    """Remembers what it made of what, so that a policy is compiled once and a bad one is said once."""

    def __init__(self, last_good: Mapping[str, Said] = EMPTY) -> None:
        """`last_good` is what held before this process, by service."""
        self._last_good = last_good
        self._held: dict[str, _Held] = {}
        self.problems: dict[str, tuple[tuple[str, str], ...]] = {}
        """What of the newest is not in force, and why, by service: each as its place and what is wrong there."""

    def of(
        self, service: str, contract: Contract, config: ServiceConfig = NOTHING, entries: Entries = NONE
    ) -> Policy:
        """The effective policy: of the methods of this contract, and of what is good or was last good elsewhere."""
        return self._current(service, contract, config, entries).policy

    def said(self, service: str) -> Said | None:
        """What the policy of a service is made of, or was before this process; None when neither is known."""
        held = self._held.get(service)
        return held.said if held else self._last_good.get(service)

    def _current(self, service: str, contract: Contract, config: ServiceConfig, entries: Entries) -> _Held:
        held = self._held.get(service)
        is_same = held and (held.contract is contract or held.contract == contract) and held.config == config
        if held and is_same and held.entries is entries:
            return held
        relevant = entries.of(consulted(service, entries))
        if held and is_same and held.relevant == relevant:
            now = replace(held, contract=contract, config=config, entries=entries, relevant=relevant)
        else:
            said, faults = good(service, contract, config, entries, self.said(service))
            self._report(service, faults)
            policy = made(service, contract, said)
            policy = held.policy if held and held.policy == policy else policy
            now = _Held(contract, config, entries, relevant, said, policy)
        self._held[service] = now
        return now

    def _report(self, service: str, faults: tuple[str, ...]) -> None:
        found = tuple(placed(service, fault) for fault in faults)
        before = self.problems.pop(service, ())
        for place, text in found:
            if (place, text) not in before:
                _log.error("%s", not_in_force(place, text))
        if found:
            self.problems[service] = found
        elif before:
            _log.info("the policy of %s is in force again", service)
