"""The policy of each service that holds now: the last good one while what is published is invalid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mesh.contract import Contract
from mesh.errors import InvalidConfig
from mesh.policy import NONE, NOTHING, Entries, Policy, ServiceConfig, compiled, consulted
from mesh.policy.entries import Entry

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    """What was made of what."""

    contract: Contract
    config: ServiceConfig
    entries: Entries
    relevant: Mapping[tuple[str, str], Entry]
    policy: Policy


class PoliciesInForce:
    """Remembers what it made of what, so that a policy is compiled once and a bad one is said once."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self.problems: dict[str, str] = {}
        """Why the newest policy of a service is not in force."""

    def of(
        self, service: str, contract: Contract, config: ServiceConfig = NOTHING, entries: Entries = NONE
    ) -> Policy:
        """The effective policy; the last good one, or the defaults, while a published one is invalid."""
        return self._current(service, contract, config, entries).policy

    def _current(self, service: str, contract: Contract, config: ServiceConfig, entries: Entries) -> _Held:
        held = self._held.get(service)
        is_same = held and (held.contract is contract or held.contract == contract) and held.config == config
        if held and is_same and held.entries is entries:
            return held
        relevant = entries.of(consulted(service, entries))
        if held and is_same and held.relevant == relevant:
            made = _Held(contract, config, entries, relevant, held.policy)
        else:
            made = self._compile(service, _Held(contract, config, entries, relevant, Policy()))
        self._held[service] = made
        return made

    def _compile(self, service: str, new: _Held) -> _Held:
        try:
            policy = compiled(service, new.contract, new.config, new.entries)
        except InvalidConfig as error:
            _log.error("the policy of %s is not in force: %s", service, error.message)
            self.problems[service] = error.message
            policy = self._last_good(service, new)
        else:
            if self.problems.pop(service, None):
                _log.info("the policy of %s is in force again", service)
        held = self._held.get(service)
        return replace(new, policy=held.policy if held and held.policy == policy else policy)

    def _last_good(self, service: str, new: _Held) -> Policy:
        """What held before; without that the contract, or the defaults for its methods."""
        if held := self._held.get(service):
            return held.policy
        try:
            return compiled(service, new.contract)
        except InvalidConfig:
            bare = replace(new.contract, service_config="")
            return compiled(service, bare)
